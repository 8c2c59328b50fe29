"""A bundle from its bytes to its content."""
