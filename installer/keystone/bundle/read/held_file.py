"""The file or device that a bundle is read from: opened once, looked at, and held.

What a name leads to may change between two looks, so everything is asked of the open handle, and
whoever believed what was read asks at the end whether it is still what was opened.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from keystone.bundle.format import CHUNK
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class Medium:
    """An open bundle. exact: it ends where the archive does; a block device is larger."""

    path: Path
    stream: BinaryIO
    exact: bool
    _opened: os.stat_result

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """`size` bytes from `offset` on, fewer where the file ends.

        Raises DamagedBundleError when the medium cannot be read there.
        """
        try:
            self.stream.seek(offset)
            while size and (chunk := self.stream.read(min(size, CHUNK))):
                size -= len(chunk)
                yield chunk
        except OSError as error:
            raise _refused(self.path, f"cannot be read: {error.strerror}") from error

    def require_unchanged(self) -> None:
        """Raises DamagedBundleError when the file changed, or its name leads to another one now.

        A file that is still being copied, or that somebody exchanges, is no bundle yet.
        """
        try:
            seen = [os.fstat(self.stream.fileno()), self.path.stat()]
        except OSError as error:
            raise _refused(self.path, f"went away while it was read: {error.strerror}") from error
        if any(_identity(found) != _identity(self._opened) for found in seen):
            raise _refused(self.path, "changed while it was read")


@contextmanager
def open_medium(path: Path) -> Iterator[Medium]:
    """A regular file or a block device, for reading.

    Raises DamagedBundleError (KSB-30) for anything else; a pipe with no writer does not block.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot be opened: {error.strerror}",
            hint="give the bundle's file or device",
            code="KSB-30",
        ) from error
    found = os.fstat(handle)
    kind = stat.S_IFMT(found.st_mode)
    if kind not in {stat.S_IFREG, stat.S_IFBLK}:
        os.close(handle)
        raise _refused(path, f"is {KINDS.get(kind, 'no file')}, not a bundle")
    os.set_blocking(handle, True)
    # Unbuffered, it is a raw stream, which typeshed does not call a BinaryIO.
    with cast("BinaryIO", os.fdopen(handle, "rb", buffering=0)) as stream:
        yield Medium(path, stream, kind == stat.S_IFREG, found)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISBLK(found.st_mode):
        return (found.st_rdev,)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _refused(path: Path, why: str) -> DamagedBundleError:
    return DamagedBundleError(
        f"{path}: {why}",
        hint="give the bundle's own file or device, when its copy is complete; a pipe goes to `-`",
        code="KSB-30",
    )
