"""The packager's cache of blobs by digest. Users may delete it at any time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.files import write_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keystone.bundle.model import Digest


def root() -> Path:
    """Return $XDG_CACHE_HOME/keystone, or ~/.cache/keystone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "keystone"


def path(digest: Digest) -> Path:
    """Return the path of a cached blob; a file with that name is complete."""
    return root() / "blobs/sha256" / digest.hex


def has(digest: Digest, size: int) -> bool:
    """Whether the cache has the blob."""
    found = path(digest)
    return found.is_file() and found.stat().st_size == size


def keep(digest: Digest, chunks: Iterable[bytes]) -> Path:
    """Store a blob. chunks: must verify its bytes, and raise at the end if they are wrong."""
    final = path(digest)
    final.parent.mkdir(parents=True, exist_ok=True)
    write_chunks(final, chunks, final.with_name(f"{digest.hex}.{threading.get_native_id()}.part"))
    return final
