"""Make the members of a bundle. pack.py sets their order, writer.py writes their bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.bundle import manifest, media, referrers
from keystone.bundle.format import (
    INSTALLER,
    INSTALLER_MODE,
    MANIFEST,
    METADATA,
    OCI_LAYOUT,
    Target,
    member_name,
)
from keystone.bundle.model import OCI_KINDS, Digest, Manifest
from keystone.packager.keys import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from keystone.packager.lock import Lock, LockedBlob
    from keystone.packager.supply import Supply

ARTIFACT = "application/vnd.keystone.content.v1"
TITLE = "org.opencontainers.image.title"
REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Part:
    """A member to write.

    target: its size and digest. open: returns its bytes, already verified; it is called with `blob`
    when there is one, so that one function serves all blobs.
    """

    name: str
    target: Target
    open: Callable[..., Iterator[bytes]]
    mode: int = 0o644
    blob: LockedBlob | None = None

    def read(self) -> Iterator[bytes]:
        """Return the member's bytes from the start."""
        return self.open(self.blob) if self.blob is not None else self.open()


@dataclass(frozen=True)
class Signing:
    """The folder of keys, and the passphrase that decrypts them."""

    folder: Path
    passphrase: str | None = None


def contents(lock: Lock) -> Part:
    """Return the table of contents."""
    return of_bytes(MANIFEST, manifest.dump(_table(lock)))


def blobs(lock: Lock, supply: Supply) -> list[Part]:
    """Return all blobs of a lock, including the installer, each with its member name."""
    table, from_supply = _table(lock), supply.open
    return [_blob(blob, table, from_supply) for blob in lock.blobs]


def installer(found: Sequence[Part]) -> list[Part]:
    """Return the installer among the blobs, which comes before the others; [] without one."""
    return [part for part in found if part.name == INSTALLER]


def layout(lock: Lock, found: Sequence[Part]) -> list[Part]:
    """Return the files of an OCI image layout, and its manifests that are not in the lock."""
    generated, index = _layout(lock)
    known = {part.name for part in found}
    return [
        of_bytes("oci-layout", OCI_LAYOUT),
        of_bytes("index.json", index),
        *(part for part in generated if part.name not in known),
    ]


def content(found: Sequence[Part]) -> list[Part]:
    """Return the blobs without the installer."""
    return [part for part in found if part.name != INSTALLER]


def signed_head(parts: Sequence[Part], lock: Lock, signing: Signing) -> list[Part]:
    """Return the metadata that names and signs all other members."""
    signed = keys.sign(
        signing.folder,
        {part.name: part.target for part in parts},
        number=lock.number,
        created=lock.created,
        valid_days=lock.valid_days,
        passphrase=signing.passphrase,
    )
    return [of_bytes(METADATA + name, data) for name, data in signed.items()]


def of_bytes(name: str, data: bytes) -> Part:
    """Return a member whose bytes are in memory."""
    target = Target(len(data), Digest(hashlib.sha256(data).hexdigest()))
    return Part(name, target, lambda: iter([data]))


def _table(lock: Lock) -> Manifest:
    return Manifest(lock.name, lock.number, lock.items)


def _blob(
    blob: LockedBlob, table: Manifest, from_supply: Callable[[LockedBlob], Iterator[bytes]]
) -> Part:
    name = member_name(blob.digest, table)
    mode = INSTALLER_MODE if name == INSTALLER else 0o644
    target = Target(blob.size, blob.digest)
    return Part(name, target, from_supply, mode, blob)


def _layout(lock: Lock) -> tuple[list[Part], bytes]:
    """index.json, and an OCI artifact for what is no image, so that every blob is reachable."""
    index = []
    for item in lock.items:
        if item.kind in OCI_KINDS:
            ref = f"{item.repository}{'@' if ':' in item.tag else ':'}{item.tag}"
            kind = item.labels["mediaType"]
            index.append(_descriptor(kind, item.digest, item.size, {REF: ref}))
    left_out = referrers.DESCRIBING | OCI_KINDS | {"installer"}
    others = [item for item in lock.items if item.kind not in left_out]
    empty = of_bytes(f"blobs/sha256/{hashlib.sha256(media.EMPTY).hexdigest()}", media.EMPTY)
    config = _descriptor(media.EMPTY_TYPE, empty.target.digest, len(media.EMPTY), {})
    layers = [
        _descriptor(
            "application/octet-stream", item.digest, item.size,
            {TITLE: f"{item.kind}/{item.labels.get('filename', item.name)}"},
        )
        for item in others
    ]  # fmt: skip
    artifact = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": layers or [config],
    }
    data = json.dumps(artifact, sort_keys=True).encode()
    part = of_bytes(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
    ref = f"keystone.local/{lock.name}:{lock.number}"
    content = _descriptor(media.MANIFEST, part.target.digest, len(data), {REF: ref})
    index.append(content)
    generated = [empty, part]
    for kind, data in referrers.manifests(lock.items, content, config):
        part = of_bytes(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
        generated.append(part)
        entry = _descriptor(media.MANIFEST, part.target.digest, len(data), {})
        index.append({**entry, "artifactType": kind})
    document = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": index}
    return generated, json.dumps(document, sort_keys=True).encode()


def _descriptor(
    media_type: str, digest: Digest, size: int, annotations: dict[str, str]
) -> dict[str, object]:
    value: dict[str, object] = {"mediaType": media_type, "digest": str(digest), "size": size}
    return {**value, "annotations": annotations} if annotations else value
