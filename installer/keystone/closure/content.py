"""Read access to the content of a bundle, or of the bundle that a lock would give."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keystone.bundle import media
from keystone.bundle.format import SCRATCH
from keystone.bundle.model import Digest, Item, Manifest
from keystone.bundle.read.bundle import open_verified
from keystone.errors import DamagedBundleError
from keystone.packager import definition
from keystone.packager import lock as locks
from keystone.packager.sources.upstream import Sources
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from keystone.bundle.read.bundle import Bundle
    from keystone.packager.lock import Lock

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Architecture names of Debian, OCI and Go, by `uname -m`."""


@dataclass(frozen=True)
class Content:
    """A table of contents, the digests of all blobs, and a function to open a blob.

    inside: digests of all blobs in the bundle. architectures: those that the bundle is for
    ("amd64"), from its package lists.
    """

    manifest: Manifest
    inside: frozenset[Digest]
    architectures: tuple[str, ...]
    opener: Callable[[Digest], AbstractContextManager[IO[bytes]]]

    def open(self, digest: Digest) -> AbstractContextManager[IO[bytes]]:
        """Open a blob. Raises DamagedBundleError when it is not in the bundle."""
        if digest not in self.inside:
            raise DamagedBundleError(f"blob {digest} is not in the bundle")
        return self.opener(digest)

    def read(self, digest: Digest, limit: int = media.MAX_OCI_MANIFEST) -> bytes:
        """Read a small blob. Raises DamagedBundleError when it has more than `limit` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            owner = self.manifest.owner(digest)
            raise DamagedBundleError(f"{owner}: blob {digest} exceeds the limit of {limit} bytes")
        return data

    @contextmanager
    def file(self, digest: Digest, name: str, mode: int = 0o600) -> Iterator[Path]:
        """A temporary copy of a blob under `name`, for programs that need a path."""
        with (
            tempfile.TemporaryDirectory(dir=SCRATCH, prefix="keystone-check-") as folder,
            self.open(digest) as source,
        ):
            path = Path(folder, name)
            with path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            path.chmod(mode)
            yield path


def of_bundle(bundle: Bundle) -> Content:
    """The content of a verified bundle."""
    inside = frozenset(target.digest for target in bundle.verified.targets.values())
    content = Content(bundle.manifest, inside, architectures(bundle.manifest), bundle.open)
    return content if content.architectures else replace(content, architectures=_carried(content))


def of_lock(lock: Lock, folder: Path, sources: Sources) -> Content:
    """The content that `create` would write; blobs come from the cache or the lock's sources."""

    @contextmanager
    def opener(digest: Digest) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile(dir=SCRATCH) as copy:
            for chunk in Supply(folder, sources).open(lock.blob(digest)):
                copy.write(chunk)
            copy.seek(0)
            yield copy

    manifest = Manifest(lock.name, lock.number, lock.items)
    inside = frozenset(blob.digest for blob in lock.blobs)
    return Content(manifest, inside, lock.architectures, opener)


def read_bundle(path: Path, fingerprint: str | None, confirm: Callable[[str], bool]) -> Content:
    """Open a bundle and verify every byte. Raises as `read.bundle.open_verified` does."""
    return of_bundle(open_verified(path, fingerprint=fingerprint, confirm=confirm))


def read_lock(path: Path, mirrors: Path | None, ca_file: Path | None = None) -> Content:
    """Open a lock, with the mirrors of the definition in the same folder.

    mirrors: file with more mirrors. ca_file: certificate authorities of upstreams; replaces the
    definition's. Raises ConfigurationError.
    """
    lock, made_of = locks.load(path), definition.beside(path)
    given = definition.load_mirrors(mirrors)
    if made_of is None:
        return of_lock(lock, path.parent, Sources(given, ca_file))
    sources = Sources(
        {**made_of.mirrors, **given}, ca_file or made_of.ca_file, made_of.token_servers
    )
    return of_lock(lock, path.parent, sources)


def architectures(manifest: Manifest) -> tuple[str, ...]:
    """The architectures of a bundle: those of its package lists, or else of its packages."""
    listed = {
        name
        for item in manifest.of_kind("packages")
        for name in item.labels.get("architecture", "").split()
    }
    debs = {item.labels.get("architecture", "") for item in manifest.of_kind("deb")}
    return tuple(sorted(listed or debs - {"all", ""}))


def _carried(content: Content) -> tuple[str, ...]:
    """Without packages: the architectures for which an image's index has a manifest inside."""
    found = set()
    for item in content.manifest.of_kind("image"):
        for child in media.parse(content.read(item.digest)).manifests:
            system, _, machine = media.platform(child.platform).partition("/")
            if child.digest in content.inside and system == "linux":
                found.add(machine)
    return tuple(sorted(found))


def describe(item: Item) -> str:
    """The name of an item in findings: "image registry.k8s.io/pause:3.10"."""
    sign = "@" if item.version.startswith("sha256:") else ":"
    joined = sign if item.kind == "image" else " "
    return f"{item.kind} {item.name}{joined}{item.version}".rstrip(" :")


def counts(manifest: Manifest) -> dict[str, int]:
    """Number of items by kind."""
    return dict(sorted(Counter(item.kind for item in manifest.items).items()))
