"""Fetch upstream artefacts. Only this package uses the network for the packager."""
