"""From the store to what services serve: a registry, apt repositories, files; all by hard link.

The plan (served.py) is a pure function of the bundle's contents; applying it compares names, inodes
and bytes, so a published store plans to nothing. Packages and files that an older bundle published
and this one does not are removed. Its images stay: nodes, and workloads that are not running now,
ask for them by name until they were brought to the new ones (docs/adr/0068-names-stay-served.md).

registry/: the filesystem storage of CNCF distribution v3 ("docker/registry/v2/..."): blobs by link,
and small `link` files that hold a digest. Names keep the upstream host.
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
from keystone.files import half_made, new, writing
from keystone.store.store import load_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.model import Digest
    from keystone.bundle.served import Planned

AREAS = ("registry", "apt", "files")


@dataclass(frozen=True)
class Published:
    """What `publish` did: names made or replaced, names removed."""

    changed: bool
    made: int
    removed: int


def publish(store: Path) -> Published:
    """Fill registry/, apt/ and files/ from the store.

    Raises DamagedBundleError for a lost blob, HostError when the disk does not take it.
    """
    wanted = dict(plan(load_manifest(store), _Stored(store)))
    made = 0
    with writing(store), log.progress("publish the store", len(wanted), in_bytes=False) as bar:
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
                f"{self._store}: blob {digest} is gone",
                hint="bring the bundle in again: keystone-install store ingest",
            ) from error

    def has(self, digest: Digest) -> bool:
        return blob_path(self._store, digest).exists()

    def created(self) -> str:
        data = (self._store / "metadata/targets.json").read_bytes()
        stored_targets(data)
        return str(json.loads(data)["signed"][CREATED])


def _place(store: Path, path: Path, planned: Planned) -> int:
    """Make one path what it should be; 1 when it was not."""
    if planned.link is None:
        return int(_write(path, planned.data))
    blob = blob_path(store, planned.link)
    try:
        wanted = blob.stat()
    except FileNotFoundError as error:
        raise DamagedBundleError(
            f"{blob}: gone", hint="bring the bundle in again: keystone-install store ingest"
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
    """Small files are not synced one by one: `publish` syncs once, and a re-run repairs."""
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with half_made(part, path):
        with os.fdopen(new(part, 0o644), "wb") as file:
            file.write(data)
        part.replace(path)
    return True


def _remove_others(store: Path, wanted: Mapping[str, Planned]) -> int:
    """Remove what is not wanted; of the registry only what a run that was cut left half-made."""
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
