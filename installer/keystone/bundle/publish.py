"""From the store to what services serve: a registry, apt repositories, files; all by hard link.

The plan is a pure function of the bundle's contents; applying it compares names, inodes and bytes,
so a published store plans to nothing. What an older bundle published and this one does not is
removed.

registry/: the filesystem storage of CNCF distribution v3 ("docker/registry/v2/..."): blobs by link,
and small `link` files that hold a digest. Names keep the upstream host.
apt/<codename>/: a flat repository (debs, Packages, Release).
files/: binaries and files by name and under sha256/<hex>; the installer as keystone-install.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from keystone import log
from keystone.bundle import media
from keystone.bundle.blobs import blob_path
from keystone.bundle.model import OCI_KINDS
from keystone.bundle.store import load_manifest, stored_targets
from keystone.bundle.trust import CREATED
from keystone.errors import DamagedBundleError
from keystone.wholefile import new

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from keystone.bundle.model import Digest, Item, Manifest

AREAS = ("registry", "apt", "files")
REGISTRY = "registry/docker/registry/v2"
KINDS_OF_FILES = {"binary", "file", "boot", "wheel", "sbom", "provenance"}


@dataclass(frozen=True)
class Planned:
    """What should be at one path of the store: a link to a blob, or bytes."""

    link: Digest | None = None
    data: bytes = b""


@dataclass(frozen=True)
class Published:
    """What `publish` did: names made or replaced, names removed."""

    changed: bool
    made: int
    removed: int


def publish(store: Path) -> Published:
    """Fill registry/, apt/ and files/ from the store. Raises DamagedBundleError for a lost blob."""
    wanted = dict(plan(load_manifest(store), _Stored(store)))
    removed = _remove_others(store, wanted)
    made = 0
    with log.progress("publish the store", len(wanted), in_bytes=False) as bar:
        for name, planned in wanted.items():
            made += _place(store, store / name, planned)
            bar.advance(1)
    os.sync()
    return Published(changed=bool(made or removed), made=made, removed=removed)


class Blobs(Protocol):
    """What the plan has to read: image manifests, package lists and the bundle's date."""

    def read(self, digest: Digest) -> bytes:
        """A whole blob, checked against its digest."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""

    def created(self) -> str:
        """When the bundle's lock was made (ISO 8601)."""


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


def plan(manifest: Manifest, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    """Every path below the store that should be there, with what it should be."""
    for item in manifest.items:
        if item.kind in OCI_KINDS:
            yield from _image(item, blobs)
        elif item.kind == "deb":
            yield f"apt/{item.labels['suite']}/{item.labels['filename']}", Planned(item.digest)
        elif item.kind == "packages":
            yield from _packages(item, blobs)
        elif item.kind in KINDS_OF_FILES:
            yield f"files/{item.labels.get('filename', item.name)}", Planned(item.digest)
            yield f"files/sha256/{item.digest.hex}", Planned(item.digest)
        elif item.kind == "installer":
            yield "files/keystone-install", Planned(item.digest)
            yield f"files/sha256/{item.digest.hex}", Planned(item.digest)


def _image(item: Item, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    repository = f"{REGISTRY}/repositories/{item.repository}"
    root = Planned(data=str(item.digest).encode())
    if not item.tag.startswith("sha256:"):
        tag = f"{repository}/_manifests/tags/{item.tag}"
        yield f"{tag}/current/link", root
        yield f"{tag}/index/sha256/{item.digest.hex}/link", root
    yield from _manifest(repository, item.digest, blobs)


def _manifest(repository: str, digest: Digest, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    link = f"{repository}/_manifests/revisions/sha256/{digest.hex}/link"
    yield link, Planned(data=str(digest).encode())
    yield _data(digest), Planned(digest)
    parsed = media.parse(blobs.read(digest))
    for child in parsed.manifests:
        # An index names all platforms; the bundle holds the ones its definition asks for.
        if blobs.has(child.digest):
            yield from _manifest(repository, child.digest, blobs)
    for layer in parsed.blobs:
        name = f"{repository}/_layers/sha256/{layer.digest.hex}/link"
        yield name, Planned(data=str(layer.digest).encode())
        yield _data(layer.digest), Planned(layer.digest)


def _data(digest: Digest) -> str:
    return f"{REGISTRY}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"


def _packages(item: Item, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    from datetime import datetime  # noqa: PLC0415 publishing alone needs it

    suite = item.labels["suite"]
    data = blobs.read(item.digest)
    created = datetime.fromisoformat(blobs.created())
    release = release_file(suite, item.labels["architecture"], created, data)
    yield f"apt/{suite}/Packages", Planned(item.digest)
    yield f"apt/{suite}/Release", Planned(data=release)


def release_file(suite: str, architectures: str, created: datetime, packages: bytes) -> bytes:
    """The Release of a flat apt repository with one Packages (Debian Repository Format)."""
    date = format_datetime(created).replace("+0000", "UTC")
    text = (
        f"Origin: Keystone\nLabel: Keystone\nSuite: {suite}\nCodename: {suite}\n"
        f"Date: {date}\nArchitectures: {architectures}\n"
        f"Description: what the bundle holds for {suite}\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )
    return text.encode()


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
    with os.fdopen(new(part, 0o644), "wb") as file:
        file.write(data)
    part.replace(path)
    return True


def _remove_others(store: Path, wanted: Mapping[str, Planned]) -> int:
    removed = 0
    for area in AREAS:
        for folder, _, names in os.walk(store / area, topdown=False):
            here = os.path.relpath(folder, store)
            for name in names:
                if f"{here}/{name}" not in wanted:
                    Path(folder, name).unlink()
                    removed += 1
            if not os.listdir(folder):  # noqa: PTH208 names are enough
                Path(folder).rmdir()
    return removed
