"""A bundle shown to people and programs."""
