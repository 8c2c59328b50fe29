"""Where sealed backups go: a folder, a stick with a label, a bucket of an S3-compatible store."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keystone.backup import manifest as manifests
from keystone.backup import pack, s3
from keystone.errors import DamagedBundleError, HostError, RefusedError
from keystone.files import require_room, sync_directory, write_chunks
from keystone.run import CommandError, run
from keystone.storage.spec import DATASETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.backup.content import Sealed
    from keystone.site.backup import Destination

LABELS = ("KEYSTONE-BACKUP", "KS-BACKUP")
"""Labels of sticks. FAT and exFAT allow 11 characters, so these have the short one."""
OPTIONS = "rw,nosuid,nodev,noexec"
OWNED = "uid=0,gid=0,fmask=0177,dmask=0077"
"""FAT and exFAT keep no owners and modes: these hold for all files on them."""
SYSTEMS = {"ext4": OPTIONS, "vfat": f"{OPTIONS},{OWNED}", "exfat": f"{OPTIONS},{OWNED}"}
"""File systems of sticks that are mounted, with their options."""
MOUNT = Path("/run/keystone-backup")
STATE = Path("/var/lib/keystone")


class AbsentError(HostError):
    """The medium is not here now: a stick that is not plugged in, a folder that does not exist."""


class Place(Protocol):
    """A place for sealed backups, while it is open."""

    def names(self) -> list[str]:
        """Return the names of all files."""

    def put(self, file: Path, name: str, sha256: str) -> None:
        """Copy a file there under that name, whole or not at all."""

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file, from the medium and not from a cache."""

    def remove(self, name: str) -> None:
        """Remove a file."""


def require_other_disk(path: Path, own: Iterable[Path] = ()) -> None:
    """Raise AbsentError for a folder on this machine's own disks: a backup there is lost with it.

    A folder where something is mounted exists also while nothing is. own: folders on these disks
    (default: the root and all that Keystone mounts from its pool).
    """
    pool = (Path("/"), STATE, *(Path(one.mountpoint) for one in DATASETS))
    disks = {one.stat().st_dev for one in own or pool if one.exists()}
    if path.is_dir() and path.stat().st_dev in disks:
        raise AbsentError(
            f"{path}: is on this machine's own disk: nothing is mounted there",
            hint="mount the other machine's folder, or the disk that is carried out",
        )


class Folder:
    """A folder, which exists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_dir():
            raise AbsentError(
                f"{path}: no such folder", hint="mount it, or make the folder on its medium"
            )

    def names(self) -> list[str]:
        """Return the names of all files."""
        return [path.name for path in self._path.iterdir() if path.is_file()]

    def put(self, file: Path, name: str, sha256: str) -> None:
        """Copy the file: temporary name, fsync, rename, fsync of the folder."""
        target = self._path / name
        require_room(target, file.stat().st_size)
        with file.open("rb") as stream:
            chunks = iter(lambda: stream.read(pack.CHUNK), b"")
            write_chunks(target, chunks, self._path / f".{name}.part", 0o600)
        sync_directory(self._path)

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the content; pages in the cache are dropped first, so that the medium is read."""
        with (self._path / name).open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := stream.read(pack.CHUNK):
                yield chunk

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink(missing_ok=True)
        sync_directory(self._path)


@contextmanager
def opened(to: Destination) -> Iterator[Place]:
    """Open a destination while the block runs.

    Raises AbsentError when its medium is not here, RefusedError for two sticks with the label,
    HostError when it cannot be mounted or the store does not answer.
    """
    if to.s3 is not None:
        yield s3.Bucket(to.s3)
    elif to.path:
        yield Folder(Path(to.path))
    else:
        with _stick() as mounted:
            yield Folder(mounted)


@contextmanager
def _stick() -> Iterator[Path]:
    device = _device(_listed())
    if os.path.ismount(MOUNT):  # an earlier run was killed
        run(["umount", MOUNT])
    MOUNT.mkdir(mode=0o700, exist_ok=True)
    words = ["mount", "-t", device["fstype"], "-o", SYSTEMS[device["fstype"]]]
    try:
        run([*words, device["path"], MOUNT])
    except CommandError as error:
        raise HostError(
            f"{device['path']} (label {device['label']}): cannot be mounted: {error.message}",
            hint="check the stick on another machine, or make its file system again",
        ) from error
    try:
        yield MOUNT
    finally:
        run(["umount", MOUNT])


def _listed() -> Mapping[str, Any]:
    listed: Mapping[str, Any] = json.loads(run(["lsblk", "-J", "-o", "PATH,LABEL,FSTYPE"]).stdout)
    return listed


def _device(listed: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the one file system with the label. What the medium says is only compared."""
    found = [one for one in _flat(listed["blockdevices"]) if one.get("label") in LABELS]
    # A disk that a container or a mapper shows twice has one path.
    by_path = {one["path"]: one for one in found}
    if not by_path:
        raise AbsentError(
            f"no stick with the label {LABELS[0]} is plugged in",
            hint=f"plug it in; label one: e2label DEVICE {LABELS[0]}, or for FAT and exFAT "
            f"fatlabel DEVICE {LABELS[1]}",
        )
    if len(by_path) > 1:
        raise RefusedError(
            f"more than one stick for backups: {', '.join(sorted(by_path))}",
            hint="leave one of them in",
        )
    (one,) = by_path.values()
    if one.get("fstype") not in SYSTEMS:
        raise RefusedError(
            f"{one['path']}: the stick's file system is {str(one.get('fstype'))[:32]!r}",
            hint=f"make one of {', '.join(SYSTEMS)} on it",
        )
    return one


def _flat(devices: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for one in devices:
        yield one
        yield from _flat(one.get("children") or ())


def store(place: Place, sealed: Sealed, keep: int) -> tuple[str, ...]:
    """Copy a sealed backup there, read it back, then remove old ones; return the names of these.

    keep: backups of the site that stay. Raises DamagedBundleError when the medium returns other
    bytes; then nothing is removed but what was written.
    """
    name = sealed.manifest.file_name
    place.put(sealed.file, name, sealed.sha256)
    digest = hashlib.sha256()
    for chunk in place.read(name):
        digest.update(chunk)
    if digest.hexdigest() != sealed.sha256:
        place.remove(name)
        raise DamagedBundleError(
            f"{name}: the medium returns other bytes than were written",
            hint="this medium is defective: use another one",
        )
    gone = manifests.to_remove(place.names(), name, keep)
    for old in gone:
        place.remove(old)
    return gone
