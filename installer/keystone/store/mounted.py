"""A read-only file system with the paths that a bundle publishes, read from the bundle's own file.

It uses FUSE through mfusepy and the host's libfuse, in a private mount namespace. So it copies
nothing, needs no set-uid helper, is invisible to other processes, and the kernel removes it with
the last process, however that ends (ADR 0047; user_namespaces(7), mount_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from keystone.bundle import served
from keystone.errors import DamagedBundleError, PreflightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.bundle.model import Digest
    from keystone.bundle.read.bundle import Bundle

FUSE_DEVICE = Path("/dev/fuse")
FOREVER = 86400
"""Seconds for which the kernel may cache names and sizes; they never change."""

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 16384, 1 << 18, 2
"""From linux/sched.h and linux/mount.h; the same on every architecture."""


@dataclass(frozen=True)
class File:
    """One file of the tree: `size` bytes of the bundle from `offset`, or the bytes `data`."""

    size: int
    offset: int = 0
    data: bytes | None = None


def tree(bundle: Bundle) -> dict[str, File]:
    """The files that `publish` would link, by path, with their positions in the bundle.

    Raises DamagedBundleError for a delta, which lacks the blobs it leaves out.
    """
    members = {
        target.digest: File(target.size, bundle.offsets[name])
        for name, target in bundle.verified.targets.items()
        if name in bundle.offsets
    }
    found = {}
    for name, planned in served.plan(bundle.manifest, _Blobs(bundle, members)):
        if planned.link is None:
            found[name] = File(len(planned.data), data=planned.data)
        elif planned.link in members:
            found[name] = members[planned.link]
        else:
            raise DamagedBundleError(
                f"{bundle.path}: {bundle.manifest.owner(planned.link)} is not in the bundle",
                hint="bring a delta into a store before you serve it: keystone-install store "
                "ingest",
            )
    return found


class _Blobs:
    """The small blobs that the plan reads; each is hashed again."""

    def __init__(self, bundle: Bundle, members: Mapping[Digest, File]) -> None:
        self._bundle, self._members = bundle, members

    def read(self, digest: Digest) -> bytes:
        with self._bundle.open(digest) as file:
            return file.read()

    def has(self, digest: Digest) -> bool:
        return digest in self._members

    def created(self) -> str:
        return self._bundle.verified.created.isoformat()


class Operations:
    """The operations of the file system, as mfusepy calls them (libfuse's high-level API).

    changed: called when the bundle's file changed after verification; from then on all reads fail.
    """

    use_ns = True

    def __init__(self, file: int, files: Mapping[str, File], changed: Callable[[], None]) -> None:
        self._file, self._changed = file, changed
        self._was = stamp(file)
        self._files = list(files.values())
        self._numbers = {f"/{name}": number for number, name in enumerate(files)}
        self._folders: dict[str, dict[str, None]] = {"/": {}}
        for name in self._numbers:
            self._place(name)

    def _place(self, name: str) -> None:
        while name != "/":
            parent, _, last = name.rpartition("/")
            known = parent in self._folders
            self._folders.setdefault(parent or "/", {})[last] = None
            if known:
                return
            name = parent or "/"

    def getattr(self, path: str, _file: int | None = None) -> dict[str, int]:
        """Attributes of a file or folder (stat(2))."""
        number = self._numbers.get(path)
        if number is not None:
            return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1,
                    "st_size": self._files[number].size, "st_mtime": self._was[0]}  # fmt: skip
        if path not in self._folders:
            raise OSError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, "st_mtime": self._was[0]}

    def readdir(self, path: str, _file: int) -> list[str]:
        """Names in a folder (readdir(3))."""
        return [".", "..", *self._folders[path]]

    def open(self, path: str, _flags: int) -> int:
        """The file handle for `read`."""
        return self._numbers[path]

    def read(self, _path: str | None, size: int, offset: int, number: int) -> bytes:
        """At most `size` bytes from `offset` of the file."""
        file = self._files[number]
        if file.data is not None:
            return file.data[offset : offset + size]
        count = max(min(size, file.size - offset), 0)
        data = os.pread(self._file, count, file.offset + offset)
        # Check after the read: the stamp then covers every write that the read could see.
        if stamp(self._file) != self._was:
            self._changed()
            raise OSError(errno.EIO, "changed after verification")
        return data


def stamp(file: int) -> tuple[int, ...]:
    """Values that change when a regular file is written: times in ns, size, device, inode."""
    found = os.fstat(file)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino)


def isolate() -> None:
    """Move this process into a new mount namespace, and a new user namespace unless it is root.

    The process must have one thread. Raises PreflightError when the kernel forbids it.
    """
    uid, gid = os.geteuid(), os.getegid()
    ordinary = uid != 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if ordinary else 0)) != 0:
        raise _forbidden("unshare")
    if ordinary:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount("none", "/", "", MS_REC | MS_PRIVATE, "")


@contextmanager
def scratch(folder: Path, mode: str) -> Iterator[Path]:
    """Mount an empty file system in memory on `folder`, invisible to other processes."""
    _mount("tmpfs", str(folder), "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    try:
        yield folder
    finally:
        _unmount(folder)


@contextmanager
def mounted(operations: Operations, folder: Path) -> Iterator[None]:
    """Mount the file system on `folder` during the block. Raises PreflightError without FUSE."""
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise PreflightError(
            f"{FUSE_DEVICE}: does not exist, or this user may not use it",
            hint="load the module (modprobe fuse), or run this command as root",
        )
    failed: list[BaseException] = []
    thread = Thread(target=_serve, args=(operations, folder, failed), name="fuse", daemon=True)
    device = folder.stat().st_dev
    thread.start()
    try:
        while folder.stat().st_dev == device and thread.is_alive():
            thread.join(0.01)
        if not thread.is_alive():
            raise PreflightError(
                f"cannot mount the bundle: {failed[0] if failed else 'libfuse failed'}",
                hint="run the command as root; --debug shows details",
            )
        yield
    finally:
        if thread.is_alive():
            _unmount(folder)
            thread.join()


def _serve(operations: Operations, folder: Path, failed: list[BaseException]) -> None:
    try:
        fuse = _library().FUSE
        fuse(
            operations, str(folder), foreground=True, nothreads=True, ro=True, allow_other=True,
            fsname="keystone", subtype="bundle", kernel_cache=True,
            entry_timeout=FOREVER, attr_timeout=FOREVER, negative_timeout=FOREVER,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        failed.append(error)


def _library() -> Any:  # noqa: ANN401 mfusepy has no types for what we use
    """Import mfusepy, which loads libfuse."""
    try:
        import mfusepy  # noqa: PLC0415
    except OSError as error:
        raise PreflightError(
            "libfuse is not installed on this machine",
            hint="install it: apt-get install libfuse3-3 (Debian 12), libfuse3-4 (Debian 13), "
            "or your distribution's fuse3",
        ) from error  # fmt: skip
    return mfusepy


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [word.encode() for word in (source, target, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        raise _forbidden(f"mount on {target}")


def _unmount(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(str(folder).encode(), MNT_DETACH) != 0:
        raise _forbidden(f"unmount {folder}")


def _forbidden(what: str) -> PreflightError:
    return PreflightError(
        f"{what}: {os.strerror(ctypes.get_errno())}: this user may not create namespaces here",
        hint="run the command as root, or allow namespaces: sysctl "
        "kernel.unprivileged_userns_clone=1 (Debian), "
        "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
    )
