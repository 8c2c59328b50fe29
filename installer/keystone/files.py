"""Files that are whole or not there: temporary name, data on the disk, then the final name."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.wholefile import whole, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from typing import Self

EARLY = 64 << 20
"""Bytes after which the disk is set to work."""


FAT = frozenset({"msdos", "vfat"})
FAT_LARGEST = (1 << 32) - 1
"""Bytes of one file on FAT32 at most."""
TOO_LARGE = (
    "cut it into parts (keystone-install bundle split --size 4000M), or take a file system that "
    "holds larger files: ext4, exFAT"
)
NEXT = {
    errno.ENOSPC: "make room, or choose another place; then run the same command again",
    errno.EDQUOT: "raise the quota or make room; then run the same command again",
    errno.EFBIG: TOO_LARGE,
    errno.EROFS: "mount it for writing, or choose another place",
    errno.EIO: "this medium fails: choose another one",
}
"""What to do about what a file system says (errno(3))."""


@contextmanager
def writing(path: Path | str, needed: int = 0) -> Iterator[None]:
    """What a disk or folder refuses is said as a HostError; path: what was to be written.

    needed: bytes that it takes in all, where that is known.
    """
    try:
        yield
    except OSError as error:
        raise refusal(error, path, needed) from error


def refusal(error: OSError, path: Path | str = "", needed: int = 0) -> HostError:
    """What a file system refused, in one line. path: what was to be written, needed: its bytes."""
    told = "" if isinstance(error.filename, int) else str(error.filename or "")
    where = str(path) if not told or told.startswith("/proc/self/fd/") else told
    said = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and where not in ("", "standard output"):
        wanted = f"{log.size(needed)} are needed, " if needed else ""
        said += f"; {wanted}{log.size(free(Path(where)))} are free"
    return HostError(
        f"{where}: {said}" if where else said,
        hint=NEXT.get(
            error.errno or 0, "correct it and run the same command again: it goes on from here"
        ),
    )


def require_room(path: Path, size: int, there: int = 0) -> None:
    """Raise HostError where a file of so many bytes has no room, before the first is written.

    there: bytes of it that lie under its temporary name already.
    """
    if size > FAT_LARGEST and _file_system(_folder(path)) in FAT:
        raise HostError(
            f"{path}: {log.size(size)}, and FAT takes at most 4 GiB in one file", hint=TOO_LARGE
        )
    if (left := free(path)) < size - there:
        raise HostError(
            f"{path}: {log.size(size - there)} are needed, {log.size(left)} are free",
            hint=NEXT[errno.ENOSPC],
        )


def free(path: Path) -> int:
    """Bytes that the file system of a path, which need not be there yet, has for this user."""
    found = os.statvfs(_folder(path))
    return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize


def _folder(path: Path) -> Path:
    """The first folder above a path that is there."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _file_system(folder: Path) -> str:
    """Its type, as in proc_pid_mountinfo(5); "" when it is not told."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split(" ")
        if words[2] == wanted:
            return words[words.index("-") + 1]
    return ""


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
