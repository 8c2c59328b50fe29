"""Helm charts, and the images that they need."""
