"""What a bundle is made of: names of its members in their order, and the bounds of each.

A bundle is a tar (formats/tar.py). It starts with TUF's metadata (metadata/1.root.json and later
roots, timestamp.json, snapshot.json, targets.json). Then come keystone.json, the installer if there
is one, oci-layout and index.json, and all other members as blobs/sha256/<hex>: an OCI image layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.bundle.model import Digest, Manifest

CHUNK = 1 << 20
"""Bytes that are read, hashed and written at once."""
METADATA = "metadata/"
MANIFEST = "keystone.json"
INSTALLER = "keystone-install"
INSTALLER_MODE = 0o755
LOOSE = ("oci-layout", "index.json")
"""Members that keep their name; everything else is a blob."""
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""What oci-layout holds (OCI image layout 1.0)."""
DELTA = "delta.json"
"""What has this member is a delta: it carries the metadata of the bundle that it makes under the
same number, and that bundle is asked whether this host accepted the number with other content."""
CREATED = "x-keystone-created"
"""A signed field of timestamp.json and targets.json: when the content was locked, ISO 8601."""
MAX_ROOTS = 257
"""The first root and 256 rotations."""
MAX_BYTES = {
    "root": 65_536,
    "timestamp": 16_384,
    "snapshot": 16_384,
    "targets": 4_000_000,
}
"""Caps on unverified metadata: 8 keys and 16 signatures are 6 KB, 22,000 blobs are 4 MB."""
MAX_MANIFEST = 8_000_000
"""Of keystone.json, in bytes: 15,000 items."""
COPY_AGAIN = "copy the bundle again from where it came, and compare its SHA-256"
SCRATCH = Path("/var/tmp")  # noqa: S108 on disk, and only nameless files are made there


@dataclass(frozen=True, slots=True)
class Target:
    """What the signed metadata says of one member: its size in bytes and its digest."""

    size: int
    digest: Digest


def member_name(digest: Digest, manifest: Manifest) -> str:
    """Where a blob stands inside a bundle: the installer at the top, the rest as OCI wants it."""
    if digest in manifest.installers:
        return INSTALLER
    return f"blobs/sha256/{digest.hex}"
