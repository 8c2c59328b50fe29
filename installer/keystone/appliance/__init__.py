"""What runs on the machine that an image starts: found, written, taken further, upgraded."""
