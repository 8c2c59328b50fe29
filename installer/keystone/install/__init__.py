"""An installation: looked at, planned, approved, done phase by phase."""
