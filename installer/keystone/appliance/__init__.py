"""What runs on a machine that an image started: install it, continue its setup, upgrade it."""
