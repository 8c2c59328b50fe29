"""Blobs kept between runs on the packager's machine, by digest. It may vanish at any time."""

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
    """$XDG_CACHE_HOME/keystone, or ~/.cache/keystone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "keystone"


def path(digest: Digest) -> Path:
    """Where a blob is if it is here; with that name it is whole."""
    return root() / "blobs/sha256" / digest.hex


def has(digest: Digest, size: int) -> bool:
    """Whether the blob is here."""
    found = path(digest)
    return found.is_file() and found.stat().st_size == size


def keep(digest: Digest, chunks: Iterable[bytes]) -> Path:
    """Keep bytes that are checked while `chunks` is read to its end (it raises otherwise)."""
    final = path(digest)
    final.parent.mkdir(parents=True, exist_ok=True)
    write_chunks(final, chunks, final.with_name(f"{digest.hex}.{threading.get_native_id()}.part"))
    return final
