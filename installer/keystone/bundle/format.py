"""The members of a bundle: their names, their order and their size limits.

A bundle is a tar (formats/tar.py). It starts with TUF metadata (metadata/1.root.json and later
roots, timestamp.json, snapshot.json, targets.json). Then follow keystone.json, the installer if
there is one, oci-layout, index.json, and all other members as blobs/sha256/<hex>: an OCI image
layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.bundle.model import Digest, Manifest

CHUNK = 1 << 20
"""Bytes to read, hash and write at a time."""
METADATA = "metadata/"
MANIFEST = "keystone.json"
INSTALLER = "keystone-install"
INSTALLER_MODE = 0o755
LOOSE = ("oci-layout", "index.json")
"""Members that keep their own name; all other members are blobs."""
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""The content of oci-layout (OCI image layout 1.0)."""
DELTA = "delta.json"
"""A bundle with this member is a delta. It has the same number as the full bundle that it makes and
carries that bundle's metadata; the rollback check runs against the full bundle's digest."""
CREATED = "x-keystone-created"
"""A signed field of timestamp.json and targets.json: the time of the lock, ISO 8601."""
MAX_ROOTS = 257
"""The first root and 256 rotations."""
MAX_BYTES = {
    "root": 65_536,
    "timestamp": 16_384,
    "snapshot": 16_384,
    "targets": 4_000_000,
}
"""Size limits of unverified metadata: 8 keys and 16 signatures take 6 KB, 22,000 blobs 4 MB."""
MAX_MANIFEST = 8_000_000
"""Maximum size of keystone.json in bytes; enough for 15,000 items."""
COPY_AGAIN = "copy the bundle again from its source, and compare its SHA-256"
SCRATCH = Path("/var/tmp")  # noqa: S108 on disk; only unnamed temporary files are created there


@dataclass(frozen=True, slots=True)
class Target:
    """Size in bytes and digest of one member, from the signed metadata."""

    size: int
    digest: Digest


def member_name(digest: Digest, manifest: Manifest) -> str:
    """The member name of a blob: top level for the installer, OCI layout for all others."""
    if digest in manifest.installers:
        return INSTALLER
    return f"blobs/sha256/{digest.hex}"
