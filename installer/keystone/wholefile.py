"""Files that are whole or not there, in folders that are ours: the one way to write at a name.

A name that one can foresee may be prepared: a link to another file at it, or a folder of somebody
else around it. So a new file is made anew (O_EXCL), no link is followed (O_NOFOLLOW), and a folder
in which others could exchange what we write is refused (docs/adr/0066-one-way-to-write.md).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from keystone.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

LOOK = "find out who put it there, and remove it"


@contextmanager
def half_made(temporary: Path, final: Path, *, goes_on: bool = False) -> Iterator[None]:
    """Have no litter left: the temporary file is removed when the block fails.

    An OSError says then that it was about `final`: write(2) and fsync(2) name no file. goes_on:
    the next run uses what is there; it is removed only where it can never become whole (EFBIG).
    """
    try:
        yield
    except BaseException as error:
        too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
        same = (None, temporary, str(temporary), temporary.name)
        if isinstance(error, OSError) and error.filename in same:
            error.filename = str(final)
        if too_large or not goes_on:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def write_whole(file: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Makes the folder (0700) when it is not there. mode: of the file, whatever the umask. Raises
    RefusedError for a folder that is not ours.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ours(file.parent) as folder:
        # Two at once would take each other's temporary file; the lock goes with the handle.
        fcntl.flock(folder, fcntl.LOCK_EX)
        with whole(file, file.with_name(f".{file.name}.new"), mode) as stream:
            left = memoryview(content)
            while left:
                left = left[stream.write(left) :]
        os.fsync(folder)


@contextmanager
def whole(file: Path, temporary: Path, mode: int) -> Iterator[FileIO]:
    """A stream into a temporary file beside `file`, which has that name when the block ends well.

    The bytes are on the disk before; the folder's own entry is the caller's to sync.
    """
    # A secret must not be readable for the moment before its mode is set.
    with ours(file.parent) as folder, half_made(temporary, file):
        handle = _new(folder, temporary, 0o600)
        with open(handle, "wb", buffering=0) as stream:  # noqa: PTH123 a handle has no path
            yield stream
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(temporary.name, file.name, src_dir_fd=folder, dst_dir_fd=folder)


def write_new(file: Path, content: bytes, mode: int) -> None:
    """As write_whole, but never over a file that is there: raises FileExistsError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    write_whole(temporary, content, mode)
    try:
        file.hardlink_to(temporary)
    except PermissionError:  # FAT has no links: the empty file is the claim, then it is replaced
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)
    with ours(file.parent) as folder:
        os.fsync(folder)


def new(file: Path, mode: int = 0o600) -> int:
    """A handle, to write and read, of a new file; what had its name goes, a link too.

    mode: less the umask.

    Raises RefusedError for a folder that is not ours.
    """
    with ours(file.parent) as folder:
        return _new(folder, file, mode)


def again(file: Path, flags: int, mode: int = 0o600) -> int:
    """A handle of a file of ours that may be there already, opened with these flags (open(2)).

    Raises RefusedError for a link, hard or symbolic, or anything else that is no file of ours.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with ours(file.parent) as folder:
        try:
            handle = os.open(file.name, flags, mode, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise RefusedError(f"{file}: a link, or no file at all", hint=LOOK) from error
            raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not _owned(found):
        os.close(handle)
        raise RefusedError(f"{file}: not a file of ours alone: linked or foreign", hint=LOOK)
    return handle


def require_ours(folder: Path) -> None:
    """Raises RefusedError for a folder in which others may change names, or that is none."""
    with ours(folder):
        pass


@contextmanager
def ours(folder: Path) -> Iterator[int]:
    """A handle of a folder in which nobody else may change names. Raises RefusedError."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        what = "a symbolic link" if folder.is_symlink() else "no folder"
        raise RefusedError(
            f"{folder}: {what}, and nothing is written through it",
            hint="name the folder itself; if nobody here made it, " + LOOK,
        ) from error
    try:
        _require_ours(folder, os.fstat(handle))
        yield handle
    except OSError as error:
        # Calls that take a folder's handle name a file without its folder.
        if isinstance(error.filename, str) and os.sep not in error.filename:
            error.filename = str(folder / error.filename)
        raise
    finally:
        os.close(handle)


def _require_ours(folder: Path, found: os.stat_result) -> None:
    if not _owned(found):
        raise RefusedError(
            f"{folder}: belongs to user {found.st_uid}, who could lead what is written elsewhere",
            hint="choose a folder of your own, or run this as that user",
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise RefusedError(
            f"{folder}: everybody may change names in it, and lead what is written elsewhere",
            hint=f"chmod o-w {folder}, or choose another folder",
        )


def _owned(found: os.stat_result) -> bool:
    """By us, by root, or by whom sudo(8) works for."""
    if found.st_uid in (os.geteuid(), 0):
        return True
    return os.geteuid() == 0 and str(found.st_uid) == os.environ.get("SUDO_UID")


def _new(folder: int, file: Path, mode: int) -> int:
    try:
        os.unlink(file.name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except IsADirectoryError as error:
        raise RefusedError(f"{file}: a folder is in the way", hint=LOOK) from error
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(file.name, flags, mode, dir_fd=folder)
