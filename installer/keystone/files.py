"""Files that are whole or not there, in folders that are ours: the one way to write at a name.

A name that one can foresee may be prepared: a link to another file at it, or a folder of somebody
else around it. So a new file is made anew (O_EXCL), no link is followed (O_NOFOLLOW), and a folder
in which others could exchange what we write is refused (docs/adr/0066-one-way-to-write.md). What a
file system refuses is said in one line, with what to do about it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from typing import Self

LOOK = "find out who put it there, and remove it"
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
            write_all(stream, content)
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
            hint=f"chmod o-w {folder}, or choose another folder; a medium without modes of its own "
            "(FAT, exFAT, NTFS): mount it with umask=022",
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
