"""What a host is, seen in one round trip."""
