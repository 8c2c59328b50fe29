"""Formats of files and bytes, each read in one way only."""
