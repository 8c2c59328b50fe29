"""Random access to blobs in a bundle's file or in a store."""

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
"""Maximum bytes of one read."""


class Blobs(Protocol):
    """Access to blobs, as the checks of content need it."""

    def size(self, digest: Digest) -> int | None:
        """Size in bytes; None when the blob is missing."""

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`; fewer at the end of the blob, at most MAX_READ."""


@dataclass(frozen=True)
class InFile:
    """Blobs in an open bundle. places: digest to offset and size of the data, in bytes."""

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
    """The path of a blob in a store."""
    return store / "blobs/sha256" / digest.hex


def is_there(path: Path, size: int | None = None) -> bool:
    """Whether `path` is a regular file, of `size` bytes if given; False for links and folders.

    The store creates blobs by rename, so it did not create anything else that has such a name.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and size in {None, found.st_size}


@dataclass(frozen=True)
class InFolder:
    """Blobs as files that are named by their digest in hex."""

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
