"""Add documents to a lock: two SBOMs and the provenance, locked like all other items.

They are made together with the lock, because all digests must be known before the first byte of a
bundle is written. They depend only on the lock and the bytes that it names, so another machine
makes the same documents.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import keystone
from keystone import log
from keystone.bundle.model import Digest, Item
from keystone.bundle.referrers import DESCRIBING
from keystone.errors import ConfigurationError
from keystone.packager import lock as locks
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sbom import inventories
from keystone.packager.sources import cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystone.packager.sources.upstream import Sources

NEEDED = ("cyclonedx", "debian", "license_expression", "packageurl", "spdx_tools")
GROUP = "description"


@dataclass(frozen=True)
class Document:
    """One document: kind, name and version of its item; its media type and bytes."""

    kind: str
    name: str
    version: str
    media_type: str
    data: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return Digest(hashlib.sha256(self.data).hexdigest())


def bare(lock: Lock) -> Lock:
    """Return the lock without its documents, which is what they describe."""
    documents = {item.digest for item in lock.items if item.kind in DESCRIBING}
    return replace(
        lock,
        items=tuple(item for item in lock.items if item.kind not in DESCRIBING),
        blobs=tuple(blob for blob in lock.blobs if blob.digest not in documents),
    )


def is_described(lock: Lock) -> bool:
    """Whether the lock has documents."""
    return any(item.kind in DESCRIBING for item in lock.items)


def may_stay(
    old: Lock | None, new: Lock, folder: Path, sources: Sources, *, documents: bool
) -> bool:
    """Whether the old lock can be kept: same content as the new one, and its documents available.

    new: without documents. documents: whether the lock should have any. If this version of Keystone
    makes other documents than the old lock names, that lock cannot be kept unless they are cached:
    `create` could not make them again.
    """
    if old is None or is_described(old) != documents or not locks.same_content(bare(old), new):
        return False
    try:
        restore(old, folder, sources)
    except ConfigurationError as error:
        log.info(f"{error.message}; making new documents")
        return False
    return True


def describe(lock: Lock, folder: Path, sources: Sources) -> Lock:
    """Return the lock with its documents, and cache those. Reads every blob once.

    folder: of the lock file. Raises SourceError, ConfigurationError.
    """
    found = bare(lock)
    documents = _make(found, folder, sources)
    items = tuple(_item(document, lock.name) for document in documents)
    blobs = tuple(
        LockedBlob(doc.digest, len(doc.data), f"built:{doc.name}", doc.media_type)
        for doc in documents
    )
    return replace(found, items=(*found.items, *items), blobs=(*found.blobs, *blobs))


def restore(lock: Lock, folder: Path, sources: Sources) -> None:
    """Make the documents of a lock again, unless they are in the cache.

    Raises ConfigurationError when the new documents have other digests than the lock names.
    """
    wanted = [lock.blob(item.digest) for item in lock.items if item.kind in DESCRIBING]
    if all(cache.has(blob.digest, blob.size) for blob in wanted):
        return
    made = {document.digest for document in _make(bare(lock), folder, sources)}
    for blob in wanted:
        if blob.digest not in made:
            raise ConfigurationError(
                f"{blob.source}: making it again gives other bytes than the lock names",
                hint="use the version of Keystone and its libraries that made the lock, or lock "
                "again: keystone-install bundle lock",
            )


def _make(lock: Lock, folder: Path, sources: Sources) -> list[Document]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"SBOMs need Python packages that are not installed: {', '.join(missing)}",
            hint="install keystone[packager], or make no SBOMs: bundle lock --no-sbom",
        )
    found = inventories.take(lock, folder, sources)
    with log.step("write SBOMs and provenance"):
        documents = list(_documents(lock, found))
    for document in documents:
        cache.keep(document.digest, [document.data])
    return documents


def _documents(lock: Lock, found: inventories.Inventories) -> Iterator[Document]:
    from keystone.packager.sbom import (  # noqa: PLC0415 slow to import, packager's only
        cyclonedx,
        graph,
        provenance,
        spdx,
    )

    identity, version = locks.digest(lock), keystone.__version__
    elements = graph.build(lock, found)
    boms = [
        Document("sbom", "sbom.spdx.json", "2.3", "application/spdx+json",
                 spdx.dump(elements, identity, lock.created, version)),
        Document("sbom", "sbom.cdx.json", "1.6", "application/vnd.cyclonedx+json",
                 cyclonedx.dump(elements, identity, lock.created, version)),
    ]  # fmt: skip
    yield from boms
    made = [(document.name, document.digest) for document in boms]
    yield Document("provenance", "provenance.json", "1", "application/vnd.in-toto+json",
                   provenance.dump(lock, identity, version, made))  # fmt: skip


def _item(document: Document, bundle: str) -> Item:
    labels = {
        "group": GROUP,
        "mediaType": document.media_type,
        "filename": f"{bundle}.{document.name}",
    }
    return Item(document.kind, document.name, document.version, document.digest,
                len(document.data), MappingProxyType(labels))  # fmt: skip
