"""Files that are whole or not there: temporary name, data on the disk, then the final name."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystone.errors import HostError
from keystone.wholefile import whole, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from pathlib import Path
    from typing import Self

EARLY = 64 << 20
"""Bytes after which the disk is set to work."""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """What a disk or folder refuses is said as a HostError; path: what was to be written."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{error.filename or path}: {error.strerror}",
            hint="correct it and run the same command again: it goes on from here",
        ) from error


def write_file(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Replace a file by these bytes, durably. Returns False when it has them already."""
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, mode)
    return True


def write_chunks(
    path: Path, chunks: Iterable[bytes | memoryview], temporary: Path, mode: int = 0o644
) -> None:
    """Write to `temporary` on the same file system, sync, rename. The directory is not synced."""
    with whole(path, temporary, mode) as file:
        for chunk in chunks:
            write_all(file, chunk)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """All of it: one write may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class Flusher:
    """Sets the disk to work while a long file is still written, instead of all at its end.

    A context; `wrote` counts. It makes nothing durable that a last fsync would not: an error of
    the disk shows there.
    """

    def __init__(self, handle: int) -> None:
        self._handle, self._count = reopened(handle), 0
        self._pool = ThreadPoolExecutor(1, "flush")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        os.close(self._handle)

    def wrote(self, count: int) -> None:
        """So many bytes more were written."""
        self._count += count
        if self._count >= EARLY:
            self._count = 0
            self._pool.submit(os.fdatasync, self._handle)


def reopened(handle: int) -> int:
    """The same file opened once more: to sync early, and not hear of errors in its writer's place.

    The kernel tells an error of writing back once to each open file (fsync(2)); a descriptor from
    dup(2) would take it, and the last fsync would say that all is well.
    """
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
