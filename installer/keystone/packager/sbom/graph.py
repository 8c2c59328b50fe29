"""Build a graph of a bundle's elements and what they contain, from which both SBOMs are written.

Pure: it turns a lock and its inventories into elements in a fixed order. Elements are the items,
the blobs that are not the root of an item, and the packages found in blobs, each package once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.packager.sbom import purl
from keystone.packager.sbom.model import UNKNOWN, Licence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keystone.bundle.model import Digest, Item
    from keystone.packager.lock import Lock, LockedBlob
    from keystone.packager.sbom.model import Inventory, Package

ROOT = "bundle"


@dataclass(frozen=True)
class Element:
    """A bundle, item, blob or package.

    ref: its name in the document ([A-Za-z0-9.-]). kind: the item's kind, "bundle", "blob" or
    "package". digest, size (bytes) and source (as in the lock): only if it is a blob. contains:
    refs in order.
    """

    ref: str
    kind: str
    name: str
    version: str = ""
    purl: str = ""
    digest: Digest | None = None
    size: int = 0
    source: str = ""
    licence: Licence = UNKNOWN
    notes: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()


def build(lock: Lock, inventories: Mapping[Digest, Inventory]) -> tuple[Element, ...]:
    """Return the elements: the bundle, items in the lock's order, blobs, packages."""
    return _Builder(lock, inventories).elements()


class _Builder:
    def __init__(self, lock: Lock, inventories: Mapping[Digest, Inventory]) -> None:
        self._lock = lock
        self._inventories = inventories
        self._blobs = {blob.digest: blob for blob in lock.blobs}
        self._packages: dict[str, Element] = {}
        # The ref of a blob is that of the first item whose root it is, else its own.
        self._refs = {digest: f"blob-{digest.hex}" for digest in self._blobs}
        for number, item in reversed(list(enumerate(lock.items, start=1))):
            self._refs[item.digest] = _item_ref(number, item)
        self._owners: dict[Digest, Item] = {}
        for item in lock.items:
            for digest in item.blobs:
                self._owners.setdefault(digest, item)
        self._distributions = _distributions(lock.items, inventories)

    def elements(self) -> tuple[Element, ...]:
        lock = self._lock
        items = [self._item(number, item) for number, item in enumerate(lock.items, start=1)]
        roots = {item.digest for item in lock.items}
        blobs = [self._blob(blob) for blob in lock.blobs if blob.digest not in roots]
        bundle = Element(
            ref=ROOT, kind="bundle", name=lock.name, version=str(lock.number),
            purl=purl.generic(lock.name, str(lock.number)),
            contains=tuple(element.ref for element in items),
        )  # fmt: skip
        packages = sorted(self._packages.values(), key=lambda element: element.ref)
        return (bundle, *items, *blobs, *packages)

    def _item(self, number: int, item: Item) -> Element:
        inventory, blob = self._inventories[item.digest], self._blobs[item.digest]
        below = [self._refs[digest] for digest in item.blobs if digest != item.digest]
        labelled = (self._inventories[digest].licence for digest in item.blobs)
        return Element(
            ref=_item_ref(number, item),
            kind=item.kind,
            name=item.name,
            version=item.version,
            purl=purl.of_item(item),
            digest=item.digest,
            size=item.size,
            source=blob.source,
            licence=inventory.licence or next(filter(None, labelled), UNKNOWN),
            notes=inventory.notes,
            contains=(*dict.fromkeys(below), *self._inside(item.digest)),
        )

    def _blob(self, blob: LockedBlob) -> Element:
        owner = self._owners.get(blob.digest)
        owner_name = f"{owner.kind} {owner.name} {owner.version}" if owner else "bundle"
        inventory = self._inventories[blob.digest]
        return Element(
            ref=self._refs[blob.digest],
            kind="blob",
            name=f"{owner_name} ({blob.media_type})",
            version=str(blob.digest),
            digest=blob.digest,
            size=blob.size,
            source=blob.source,
            notes=inventory.notes,
            contains=self._inside(blob.digest),
        )

    def _inside(self, digest: Digest) -> tuple[str, ...]:
        """Return refs of the packages in a blob; keep the entry that states a licence."""
        found = []
        for package in self._inventories[digest].packages:
            name = purl.of_package(package, self._distributions.get(digest, ""))
            ref = f"package-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
            known = self._packages.get(ref)
            if known is None or package.licence > known.licence:
                self._packages[ref] = Element(
                    ref=ref, kind="package", name=_full_name(package), version=package.version,
                    purl=name, licence=package.licence,
                )  # fmt: skip
            found.append(ref)
        return tuple(sorted(set(found)))


def _item_ref(number: int, item: Item) -> str:
    return f"item-{number}-{item.digest.hex[:12]}"


def _full_name(package: Package) -> str:
    in_path = package.kind == "golang" and package.namespace
    return f"{package.namespace}/{package.name}" if in_path else package.name


def _distributions(
    items: Iterable[Item], inventories: Mapping[Digest, Inventory]
) -> dict[Digest, str]:
    """Return the distribution of each blob's packages: by os-release in it or in its image."""
    found: dict[Digest, str] = {}
    for item in items:
        blobs = (item.digest, *item.blobs)
        named = [name for blob in blobs if (name := inventories[blob].distribution)]
        for blob in blobs:
            if own := inventories[blob].distribution or (named[-1] if named else ""):
                found.setdefault(blob, own)
    return found
