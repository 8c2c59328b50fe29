"""Reports about a bundle for people and programs."""
