"""File and byte formats, each with exactly one accepted encoding."""
