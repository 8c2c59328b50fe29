"""Write files atomically, and only in folders that no other user can change.

Another user may prepare a predictable name: put a link to another file there, or own the folder
around it. So a new file is always created (O_EXCL), no link is followed (O_NOFOLLOW), and a folder
in which others could replace our files is refused (docs/adr/0066-one-way-to-write.md). Errors of
the file system become one line with the next step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO

LOOK = "find out who put it there, and remove it"
EARLY = 64 << 20
"""Bytes that are written between two early syncs (`Flusher`)."""
FAT = frozenset({"msdos", "vfat"})
FAT_LARGEST = (1 << 32) - 1
"""Largest size of a file on FAT32, in bytes."""
TOO_LARGE = (
    "split the bundle into parts (keystone-install bundle split --size 4000M), or use a file "
    "system for larger files: ext4, exFAT"
)
NEXT = {
    errno.ENOSPC: "free space, or choose another folder; then run the same command again",
    errno.EDQUOT: "raise the quota or free space; then run the same command again",
    errno.EFBIG: TOO_LARGE,
    errno.EROFS: "remount it read-write, or choose another folder",
    errno.EIO: "this medium is defective: use another one",
}
"""The next step for each error of a file system (errno(3))."""


@contextmanager
def half_made(temporary: Path, final: Path, *, goes_on: bool = False) -> Iterator[None]:
    """Remove the temporary file when the block fails.

    An OSError of the block then names `final`, because write(2) and fsync(2) name no file.
    goes_on: keep the temporary file for the next run, unless it can never become complete (EFBIG).
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
    """Write a file atomically: temporary file, fsync, rename, fsync of the folder.

    Makes the folder (0700) when it does not exist. mode: of the file, independent of the umask.
    Raises RefusedError for a folder that is not ours.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with own_folder(file.parent) as folder:
        # Two processes would use the same temporary file. Closing the handle releases the lock.
        fcntl.flock(folder, fcntl.LOCK_EX)
        with replacing(file, file.with_name(f".{file.name}.new"), mode) as stream:
            write_all(stream, content)
        os.fsync(folder)


@contextmanager
def replacing(file: Path, temporary: Path, mode: int) -> Iterator[FileIO]:
    """Open a temporary file beside `file`; when the block succeeds, sync it and rename it.

    temporary: in the same folder as `file`. mode: of the file, independent of the umask. The
    caller syncs the folder.
    """
    # 0600 until the block ends: a secret must never be readable by others, even for a moment.
    with own_folder(file.parent) as folder, half_made(temporary, file):
        handle = _new(folder, temporary, 0o600)
        with open(handle, "wb", buffering=0) as stream:  # noqa: PTH123 a handle has no path
            yield stream
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(temporary.name, file.name, src_dir_fd=folder, dst_dir_fd=folder)


def write_new(file: Path, content: bytes, mode: int) -> None:
    """Write a new file as `write_whole` does. Raises FileExistsError when `file` exists."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    write_whole(temporary, content, mode)
    try:
        file.hardlink_to(temporary)
    except PermissionError:  # FAT has no links: an empty file reserves the name, then is replaced
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)
    with own_folder(file.parent) as folder:
        os.fsync(folder)


def create(file: Path, mode: int = 0o600) -> int:
    """Create a file and return a handle to read and write; a file or link of that name is removed.

    mode: the umask is subtracted. Raises RefusedError for a folder that is not ours.
    """
    with own_folder(file.parent) as folder:
        return _new(folder, file, mode)


def open_own(file: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of ours that may exist already, with these flags (open(2)); return the handle.

    Raises RefusedError for a link, hard or symbolic, for anything that is not a regular file, and
    for a file of another user.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with own_folder(file.parent) as folder:
        try:
            handle = os.open(file.name, flags, mode, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise RefusedError(
                    f"{file}: is a link, or not a regular file", hint=LOOK
                ) from error
            raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not _owned(found):
        os.close(handle)
        raise RefusedError(
            f"{file}: not a regular file, has more than one link, or belongs to another user",
            hint=LOOK,
        )
    return handle


def require_ours(folder: Path) -> None:
    """Raise RefusedError when others may change names in this folder, or it is not a folder."""
    with own_folder(folder):
        pass


@contextmanager
def own_folder(folder: Path) -> Iterator[int]:
    """Open a folder in which no other user may change names.

    Ours means: owned by us, by root, or by the user that called sudo(8); not writable for all,
    except with the sticky bit. Raises RefusedError for any other folder, and for a symbolic link.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        kind = "a symbolic link, which is not followed" if folder.is_symlink() else "not a folder"
        raise RefusedError(
            f"{folder}: is {kind}",
            hint="name the folder itself; if you did not make this link or file, " + LOOK,
        ) from error
    try:
        _require_ours(folder, os.fstat(handle))
        yield handle
    except OSError as error:
        # System calls relative to a folder's handle name a file without its folder.
        if isinstance(error.filename, str) and os.sep not in error.filename:
            error.filename = str(folder / error.filename)
        raise
    finally:
        os.close(handle)


def _require_ours(folder: Path, found: os.stat_result) -> None:
    if not _owned(found):
        raise RefusedError(
            f"{folder}: belongs to user {found.st_uid}, who could redirect files written there",
            hint="choose a folder of your own, or run this command as that user",
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise RefusedError(
            f"{folder}: is writable for all users, who could redirect files written there",
            hint=f"chmod o-w {folder}, or choose another folder; on a file system without modes "
            "(FAT, exFAT, NTFS): mount it with umask=022",
        )


def _owned(found: os.stat_result) -> bool:
    """Return whether the owner is us, root, or the user that called sudo(8)."""
    if found.st_uid in (os.geteuid(), 0):
        return True
    return os.geteuid() == 0 and str(found.st_uid) == os.environ.get("SUDO_UID")


def _new(folder: int, file: Path, mode: int) -> int:
    try:
        os.unlink(file.name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except IsADirectoryError as error:
        raise RefusedError(f"{file}: is a folder; a file is to be written", hint=LOOK) from error
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(file.name, flags, mode, dir_fd=folder)


@contextmanager
def writing(path: Path | str, needed: int = 0) -> Iterator[None]:
    """Turn an OSError of the block into a HostError.

    path: the file that is written. needed: its size in bytes, 0 when unknown.
    """
    try:
        yield
    except OSError as error:
        raise refusal(error, path, needed) from error


def refusal(error: OSError, path: Path | str = "", needed: int = 0) -> HostError:
    """Return the HostError for an error of the file system.

    path: the file that was written, for errors that name none. needed: its size in bytes.
    """
    named = "" if isinstance(error.filename, int) else str(error.filename or "")
    where = str(path) if not named or named.startswith("/proc/self/fd/") else named
    text = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and where not in ("", "standard output"):
        wanted = f"{log.size(needed)} are needed, " if needed else ""
        text += f"; {wanted}{log.size(free(Path(where)))} are free"
    return HostError(
        f"{where}: {text}" if where else text,
        hint=NEXT.get(
            error.errno or 0, "correct it and run the same command again: it continues from here"
        ),
    )


def require_room(path: Path, size: int, there: int = 0) -> None:
    """Raise HostError when a file of `size` bytes does not fit, before any byte is written.

    there: bytes that are in its temporary file already.
    """
    if size > FAT_LARGEST and _file_system(_folder(path)) in FAT:
        raise HostError(
            f"{path}: {log.size(size)}; FAT allows at most 4 GiB per file", hint=TOO_LARGE
        )
    if (left := free(path)) < size - there:
        raise HostError(
            f"{path}: {log.size(size - there)} are needed, {log.size(left)} are free",
            hint=NEXT[errno.ENOSPC],
        )


def free(path: Path) -> int:
    """Return the free bytes for this user on the file system of a path that may not exist yet."""
    found = os.statvfs(_folder(path))
    return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize


def _folder(path: Path) -> Path:
    """Return the closest parent folder of a path that exists."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _file_system(folder: Path) -> str:
    """Return the type of a folder's file system (proc_pid_mountinfo(5)); "" when unknown."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split(" ")
        if words[2] == wanted:
            return words[words.index("-") + 1]
    return ""


def write_file(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Replace a file's content and mode, durably. Return False when it has both already."""
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, mode)
    return True


def write_chunks(
    path: Path, chunks: Iterable[bytes | memoryview], temporary: Path, mode: int = 0o644
) -> None:
    """Write to `temporary` in the same folder, sync, rename. The folder is not synced."""
    with replacing(path, temporary, mode) as file:
        for chunk in chunks:
            write_all(file, chunk)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all bytes: one write(2) may write fewer than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def reopened(handle: int) -> int:
    """Open the same file once more, for early syncs that do not consume the writer's errors.

    The kernel reports a writeback error once per open file description (fsync(2)): a descriptor
    from dup(2) would consume it, and the last fsync would report success.
    """
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)


def settle(half: Path, final: Path, *, synced: bool = False) -> None:
    """Give a complete file or folder its final name durably: fsync, rename, fsync of the folder.

    Both names are on one file system. synced: the content is on the disk already, for example by
    `sync --file-system` for a tree of many files.
    """
    if not synced:
        _sync(half)
    half.rename(final)
    sync_directory(final.parent)


@contextmanager
def made(folder: Path, mode: int = 0o777, *, synced: bool = False) -> Iterator[Path]:
    """Yield a new folder; it gets its name when the block succeeds, and is removed when it fails.

    First remove what an interrupted run left. mode: masked by the umask; synced: as in `settle`.
    """
    half = folder.with_name(f"{folder.name}.partial")
    if half.exists():
        shutil.rmtree(half)
    half.mkdir(mode, parents=True)
    try:
        yield half
        settle(half, folder, synced=synced)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def link(name: Path, target: Path | str, temporary: Path | None = None) -> None:
    """Point the symbolic link `name` to `target` atomically.

    target: relative to the folder of the link. temporary: a name on the same file system.
    """
    half = temporary or name.with_name(f".{name.name}.new")
    half.unlink(missing_ok=True)
    half.symlink_to(target)
    settle(half, name, synced=True)


def _sync(path: Path) -> None:
    """Sync a file, or all files and folders of a tree; links are part of their folders."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for folder, _, names in os.walk(path):
        for one in (Path(folder, name) for name in names):
            if one.is_file() and not one.is_symlink():
                _sync(one)
        sync_directory(Path(folder))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: they survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
