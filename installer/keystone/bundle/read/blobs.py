"""Blobs that can be looked into, wherever they lie: in a bundle's file or in a store."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.bundle.model import Digest

MAX_READ = 4 << 20


class Blobs(Protocol):
    """What looks into content needs to know of blobs."""

    def size(self, digest: Digest) -> int | None:
        """Bytes; None when the blob is not here."""

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; fewer at the blob's end."""


@dataclass(frozen=True)
class InFile:
    """Blobs in an open bundle. places: digest to the offset of its data and its size, in bytes."""

    handle: int
    places: Mapping[Digest, tuple[int, int]]

    def size(self, digest: Digest) -> int | None:
        """As Blobs.size."""
        place = self.places.get(digest)
        return place[1] if place else None

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """As Blobs.read."""
        start, size = self.places[digest]
        return os.pread(self.handle, max(0, min(count, size - offset, MAX_READ)), start + offset)


def blob_path(store: Path, digest: Digest) -> Path:
    """Where a blob lies in a store."""
    return store / "blobs/sha256" / digest.hex


def is_there(path: Path, size: int | None = None) -> bool:
    """Whether a file stands there itself, of that size in bytes; no link to one, no folder.

    Blobs get their names by rename, so whatever else has one was not put there by a store.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and size in {None, found.st_size}


@dataclass(frozen=True)
class InFolder:
    """Blobs as files called by their digest."""

    folder: Path

    def size(self, digest: Digest) -> int | None:
        """As Blobs.size."""
        try:
            return (self.folder / digest.hex).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """As Blobs.read."""
        with (self.folder / digest.hex).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), min(count, MAX_READ), offset)
