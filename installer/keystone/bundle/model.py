"""The content of a bundle as frozen, parsed types."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

STORE = "/var/lib/keystone/store"
"""The folder where a Primer keeps the bundle's content."""
BY_TAG = frozenset({"image", "attachment"})
"""Kinds of items that a bundle may hold in several versions."""
OCI_KINDS = BY_TAG | {"chart"}
"""Kinds of items that a registry serves by name and tag; the root blob is a manifest or index."""


@dataclass(frozen=True, order=True, slots=True)
class Digest:
    """A valid SHA-256 digest (OCI image-spec, descriptor.md#digests).

    hex: 64 lower-case hexadecimal digits. Raises ValueError when it is anything else.
    """

    hex: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", str(self.hex)):
            raise ValueError(f"not a SHA-256 digest: {self.hex!r:.90}")

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Parse "sha256:<64 hex digits>". Raises ValueError for any other text."""
        algorithm, _, rest = str(text).partition(":")
        if algorithm != "sha256":
            raise ValueError(f"not a SHA-256 digest: {text!r:.90}")
        return cls(rest)

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the bundle's table of contents.

    kind: image, attachment (of an image: signatures, SBOMs), chart, values (of a chart), deb,
    packages, binary, wheel, file, installer.
    name: as upstream names it ("registry.k8s.io/kube-apiserver", "chrony", "kubelet").
    version: tag or version.
    digest and size (bytes): of the root blob: an image's manifest or index, or the file itself.
    labels: "group" (the reason to carry it), "suite", "architecture", "filename", "url" ...
    blobs: its other blobs (an image's other manifests, configuration and layers).
    """

    kind: str
    name: str
    version: str
    digest: Digest
    size: int
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    blobs: tuple[Digest, ...] = ()

    @property
    def repository(self) -> str:
        """The repository of an image or chart in a registry, including upstream's host name."""
        return self.labels.get("repository", self.name)

    @property
    def tag(self) -> str:
        """The tag of an image or chart: tags cannot contain "+", so Helm writes "_" instead."""
        return self.version.replace("+", "_")

    @property
    def path(self) -> str:
        """The path of the blob on a Primer."""
        return f"{STORE}/blobs/sha256/{self.digest.hex}"


@dataclass(frozen=True)
class Manifest:
    """The table of contents, made from verified bytes only. number: grows with every release."""

    name: str
    number: int
    items: tuple[Item, ...]

    def item(self, kind: str, name: str) -> Item:
        """The item of this kind and name. Raises DamagedBundleError when there is none."""
        for item in self.items:
            if (item.kind, item.name) == (kind, name):
                return item
        raise DamagedBundleError(
            f"bundle {self.name}: contains no {kind} {name}",
            hint="add it to the bundle definition, lock and create again",
        )

    def owner(self, digest: Digest) -> str:
        """The item that a blob belongs to, for messages: "image registry.k8s.io/pause 3.10"."""
        return self._owners.get(digest, "the bundle's own index")

    @cached_property
    def installers(self) -> frozenset[Digest]:
        """Digests of the executables at the top level of the bundle."""
        return frozenset(item.digest for item in self.of_kind("installer"))

    @cached_property
    def _owners(self) -> dict[Digest, str]:
        """Computed once: a search through all items for each of 30,000 blobs takes minutes."""
        return {
            digest: f"{item.kind} {item.name} {item.version}".rstrip()
            for item in reversed(self.items)
            for digest in (item.digest, *item.blobs)
        }

    def of_kind(self, kind: str) -> tuple[Item, ...]:
        """All items of this kind, in the bundle's order."""
        return tuple(item for item in self.items if item.kind == kind)
