"""Make bundles, outside the gap: definition, lock, bundle. This package uses the network."""
