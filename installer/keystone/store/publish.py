"""Publish the store for the services: a registry, apt repositories and files, by hard link.

The plan (served.py) is a pure function of the bundle's contents. Applying it compares names, inodes
and bytes, so publishing a second time changes nothing. It removes packages and files that only an
older bundle published. It keeps older images: nodes, and workloads that are not running now, refer
to them by name until they are updated (docs/adr/0068-names-stay-served.md).

registry/: the file system storage of CNCF distribution v3 ("docker/registry/v2/..."): hard links to
blobs, and small `link` files that contain a digest. Names keep the upstream host.
apt/<codename>/: a flat repository (debs, Packages, Release).
files/: binaries and files by name and under sha256/<hex>; the installer as keystone-install.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import CREATED
from keystone.bundle.read.blobs import blob_path
from keystone.bundle.served import plan
from keystone.bundle.trust.verify import stored_targets
from keystone.errors import DamagedBundleError
from keystone.files import create, half_made, writing
from keystone.lockfile import only_one
from keystone.store.store import LOCK, load_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.model import Digest
    from keystone.bundle.served import Planned

AREAS = ("registry", "apt", "files")


@dataclass(frozen=True)
class Published:
    """Result of `publish`. made: names that were created or replaced; removed: names."""

    changed: bool
    made: int
    removed: int


def publish(store: Path) -> Published:
    """Fill registry/, apt/ and files/ from the store; wait for another process that works on it.

    Raises DamagedBundleError for a missing blob, HostError when the disk is full or cannot be
    written.
    """
    with writing(store), only_one(store / LOCK, str(store)):
        wanted = dict(plan(load_manifest(store), _Stored(store)))
        made = 0
        with log.progress("publish the store", len(wanted), in_bytes=False) as bar:
            removed = _remove_others(store, wanted)
            for name, planned in wanted.items():
                made += _place(store, store / name, planned)
                bar.advance(1)
        os.sync()
    return Published(changed=bool(made or removed), made=made, removed=removed)


class _Stored:
    """The blobs of a store."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def read(self, digest: Digest) -> bytes:
        try:
            return blob_path(self._store, digest).read_bytes()
        except FileNotFoundError as error:
            raise DamagedBundleError(
                f"{self._store}: blob {digest} is missing",
                hint="bring the bundle in again: keystone-install store ingest",
            ) from error

    def has(self, digest: Digest) -> bool:
        return blob_path(self._store, digest).exists()

    def created(self) -> str:
        data = (self._store / "metadata/targets.json").read_bytes()
        stored_targets(data)
        return str(json.loads(data)["signed"][CREATED])


def _place(store: Path, path: Path, planned: Planned) -> int:
    """Give one path its planned content. Returns 1 when that changed it, else 0."""
    if planned.link is None:
        return int(_write(path, planned.data))
    blob = blob_path(store, planned.link)
    try:
        wanted = blob.stat()
    except FileNotFoundError as error:
        raise DamagedBundleError(
            f"{blob}: missing", hint="bring the bundle in again: keystone-install store ingest"
        ) from error
    try:
        found = path.lstat()
        if (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev):
            return 0
        path.unlink()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.hardlink_to(blob)
    return 1


def _write(path: Path, data: bytes) -> bool:
    """Write a small file without a sync: `publish` syncs once at the end, and a re-run repairs."""
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with half_made(part, path):
        with os.fdopen(create(part, 0o644), "wb") as file:
            file.write(data)
        part.replace(path)
    return True


def _remove_others(store: Path, wanted: Mapping[str, Planned]) -> int:
    """Remove unplanned files; in the registry, only temporary files of an interrupted run."""
    removed = 0
    for area in AREAS:
        for folder, _, names in os.walk(store / area, topdown=False):
            here = os.path.relpath(folder, store)
            for name in names:
                kept = area == "registry" and not name.endswith(".part")
                if not kept and f"{here}/{name}" not in wanted:
                    Path(folder, name).unlink()
                    removed += 1
            if not os.listdir(folder):  # noqa: PTH208 names are enough
                Path(folder).rmdir()
    return removed
