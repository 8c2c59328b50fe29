"""The keys that sign bundles, and the ceremonies that make them."""
