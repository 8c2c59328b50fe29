"""Deltas: bundles that carry only the blobs that a store lacks."""
