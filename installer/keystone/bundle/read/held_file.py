"""Open the file or device that contains a bundle once, and keep it open while it is read.

A path can lead to another file at any time, so all checks use the open file descriptor. Callers
check at the end that the path still leads to the unchanged file (`Medium.require_unchanged`).
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from keystone.bundle.format import CHUNK
from keystone.errors import DamagedBundleError, UntrustedBundleError

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
    """An open bundle. exact: nothing may follow the archive; False for a block device."""

    path: Path
    stream: BinaryIO
    exact: bool
    _opened: os.stat_result

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes from `offset`; fewer when the file ends.

        Raises DamagedBundleError (KSB-30) when the medium cannot be read there.
        """
        try:
            self.stream.seek(offset)
            while size and (chunk := self.stream.read(min(size, CHUNK))):
                size -= len(chunk)
                yield chunk
        except OSError as error:
            raise _refused(self.path, f"cannot read: {error.strerror}") from error

    def require_unchanged(self) -> None:
        """Raise DamagedBundleError (KSB-30) when the file changed or was replaced.

        This includes a file that is still being copied.
        """
        try:
            seen = [os.fstat(self.stream.fileno()), self.path.stat()]
        except OSError as error:
            raise _refused(self.path, f"disappeared during the read: {error.strerror}") from error
        if any(_identity(found) != _identity(self._opened) for found in seen):
            raise _refused(self.path, "changed during the read")


@contextmanager
def open_medium(path: Path) -> Iterator[Medium]:
    """Open a regular file or a block device for reading.

    Raises DamagedBundleError (KSB-30) for anything else, without blocking on a pipe. An error about
    the bundle that is raised while it is open gets the name of the file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot open: {error.strerror}",
            hint="name the bundle's file or device",
            code="KSB-30",
        ) from error
    found = os.fstat(handle)
    kind = stat.S_IFMT(found.st_mode)
    if kind not in {stat.S_IFREG, stat.S_IFBLK}:
        os.close(handle)
        raise _refused(path, f"is {KINDS.get(kind, 'not a file')}, not a bundle")
    os.set_blocking(handle, True)
    # An unbuffered file is a raw stream, which typeshed does not accept as BinaryIO.
    with cast("BinaryIO", os.fdopen(handle, "rb", buffering=0)) as stream:
        try:
            yield Medium(path, stream, kind == stat.S_IFREG, found)
        except (DamagedBundleError, UntrustedBundleError) as error:
            if str(path) not in error.message:
                error.message = f"{path}: {error.message}"
            raise


def _identity(found: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISBLK(found.st_mode):
        return (found.st_rdev,)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _refused(path: Path, why: str) -> DamagedBundleError:
    return DamagedBundleError(
        f"{path}: {why}",
        hint="name the bundle's file or device, after its copy is complete; name a pipe as `-`",
        code="KSB-30",
    )
