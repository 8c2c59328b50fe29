"""What crosses the gap: one signed file."""
