"""What crosses the gap: one signed file."""

from keystone.bundle.delta_reader import over_store
from keystone.bundle.held import open_held
from keystone.bundle.model import Digest, Item, Manifest
from keystone.bundle.opened import Bundle, open_metadata, open_verified

__all__ = [
    "Bundle", "Digest", "Item", "Manifest",
    "open_held", "open_metadata", "open_verified", "over_store",
]  # fmt: skip
