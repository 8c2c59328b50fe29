"""Plan the paths that a Primer serves from a bundle, and the content of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keystone.bundle import media
from keystone.bundle.formats.deb822 import release_file
from keystone.bundle.model import OCI_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.media import Parsed
    from keystone.bundle.model import Digest, Item, Manifest

REGISTRY = "registry/docker/registry/v2"
KINDS_OF_FILES = {"binary", "file", "boot", "wheel", "sbom", "provenance"}


@dataclass(frozen=True)
class Planned:
    """The content of one path of the store: a link to a blob, or bytes."""

    link: Digest | None = None
    data: bytes = b""


class Blobs(Protocol):
    """The input of the plan: image manifests, package lists and the bundle's date."""

    def read(self, digest: Digest) -> bytes:
        """All bytes of a blob, checked against its digest."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob exists."""

    def created(self) -> str:
        """The time of the bundle's lock (ISO 8601)."""


@dataclass(frozen=True)
class Memory:
    """Remembers the manifests that a plan has handled, so each is parsed only once.

    parsed: manifests by digest. done: repository and digest of those whose paths were yielded.
    """

    parsed: dict[Digest, Parsed] = field(default_factory=dict)
    done: set[tuple[str, Digest]] = field(default_factory=set)


def plan(manifest: Manifest, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    """Every path that should exist below the store, with its content."""
    memory = Memory()
    for item in manifest.items:
        yield from plan_item(item, blobs, memory)


def plan_item(item: Item, blobs: Blobs, memory: Memory) -> Iterator[tuple[str, Planned]]:
    """The paths of one item, without those that were yielded for another item before.

    Raises KeyError when a label that this kind requires is missing.
    """
    plain_chart = item.kind == "chart" and "mediaType" not in item.labels
    if item.kind in OCI_KINDS and not plain_chart:
        yield from _image(item, blobs, memory)
    elif item.kind == "deb":
        yield f"apt/{item.labels['suite']}/{item.labels['filename']}", Planned(item.digest)
    elif item.kind == "packages":
        yield from _packages(item, blobs)
    elif item.kind in KINDS_OF_FILES or plain_chart:
        yield f"files/{item.labels.get('filename', item.name)}", Planned(item.digest)
        yield f"files/sha256/{item.digest.hex}", Planned(item.digest)
    elif item.kind == "installer":
        yield "files/keystone-install", Planned(item.digest)
        yield f"files/sha256/{item.digest.hex}", Planned(item.digest)


def _image(item: Item, blobs: Blobs, memory: Memory) -> Iterator[tuple[str, Planned]]:
    repository = f"{REGISTRY}/repositories/{item.repository}"
    root = Planned(data=str(item.digest).encode())
    if not item.tag.startswith("sha256:"):
        tag = f"{repository}/_manifests/tags/{item.tag}"
        yield f"{tag}/current/link", root
        yield f"{tag}/index/sha256/{item.digest.hex}/link", root
    yield from _manifest(repository, item.digest, blobs, memory)


def _manifest(
    repository: str, digest: Digest, blobs: Blobs, memory: Memory
) -> Iterator[tuple[str, Planned]]:
    if (repository, digest) in memory.done:
        return
    memory.done.add((repository, digest))
    link = f"{repository}/_manifests/revisions/sha256/{digest.hex}/link"
    yield link, Planned(data=str(digest).encode())
    yield _data(digest), Planned(digest)
    if digest not in memory.parsed:
        memory.parsed[digest] = media.parse(blobs.read(digest))
    parsed = memory.parsed[digest]
    for child in parsed.manifests:
        # An index names all platforms; the bundle holds only those that its definition selects.
        if blobs.has(child.digest):
            yield from _manifest(repository, child.digest, blobs, memory)
    for layer in parsed.blobs:
        name = f"{repository}/_layers/sha256/{layer.digest.hex}/link"
        yield name, Planned(data=str(layer.digest).encode())
        yield _data(layer.digest), Planned(layer.digest)


def _data(digest: Digest) -> str:
    return f"{REGISTRY}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"


def _packages(item: Item, blobs: Blobs) -> Iterator[tuple[str, Planned]]:
    from datetime import datetime  # noqa: PLC0415 only publishing needs it

    suite = item.labels["suite"]
    data = blobs.read(item.digest)
    created = datetime.fromisoformat(blobs.created())
    release = release_file(suite, item.labels["architecture"], created, data)
    yield f"apt/{suite}/Packages", Planned(item.digest)
    yield f"apt/{suite}/Release", Planned(data=release)
