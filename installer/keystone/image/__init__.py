"""Build images: a recipe becomes an ISO, a disk image or files for network boot."""
