"""From a lock to the bundle: a deterministic stream of bytes, resumed where it was cut.

All digests and sizes are in the lock, so the signed head is known before the first blob is
fetched: blobs go from their source into the archive in one pass. While it is written the file is
called `<name>.part`; a run that was cut re-hashes what it finds there and goes on after the last
whole member.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle import manifest, media, referrers
from keystone.bundle.format import (
    CHUNK,
    INSTALLER,
    INSTALLER_MODE,
    MANIFEST,
    METADATA,
    OCI_LAYOUT,
    Target,
    member_name,
)
from keystone.bundle.formats import tar
from keystone.bundle.model import OCI_KINDS, Digest, Manifest
from keystone.files import (
    Flusher,
    again,
    half_made,
    require_room,
    sync_directory,
    write_all,
    writing,
)
from keystone.packager.keys import keys
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    from keystone.packager.lock import Lock, LockedBlob
    from keystone.packager.sources.upstream import Sources

ARTIFACT = "application/vnd.keystone.content.v1"
TITLE = "org.opencontainers.image.title"
REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Part:
    """A member to write: its name, what it must be, and what gives its bytes, which are checked.

    open: called with the blob, where there is one; so one function does for all blobs.
    """

    name: str
    target: Target
    open: Callable[..., Iterator[bytes]]
    mode: int = 0o644
    blob: LockedBlob | None = None

    def read(self) -> Iterator[bytes]:
        """Its bytes from their start."""
        return self.open(self.blob) if self.blob is not None else self.open()


@dataclass(frozen=True)
class Created:
    """What `create` did. size of the bundle in bytes; digest names it.

    fingerprint: of its root; installer: SHA-256 of its keystone-install, "" when it has none. Both
    in hexadecimal, for operators to compare, who get them by another way.
    """

    changed: bool
    digest: str
    size: int
    fingerprint: str = ""
    installer: str = ""


@dataclass(frozen=True)
class Signing:
    """The folder with the keys, and what opens them."""

    folder: Path
    passphrase: str | None = None


def create(lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources) -> Created:
    """Write the bundle. folder: of the lock file, for local sources.

    Raises SourceError when an upstream gives other bytes than the lock names.
    """
    supply = Supply(folder, sources)
    return write(plan(lock, signing, supply), lock, output, supply)


def write(parts: list[Part], lock: Lock, output: Path, supply: Supply) -> Created:
    """Write these members, the signed head first, dated as the lock is.

    supply: what the members with a blob are read from.
    """
    digests = {part.name: part.target.digest for part in parts}
    installer = digests.get(INSTALLER)
    done = Created(
        changed=True,
        digest=str(digests[f"{METADATA}targets.json"]),
        size=_size(parts, lock),
        fingerprint=digests[f"{METADATA}1.root.json"].hex,
        installer=installer.hex if installer else "",
    )
    if _is_there(output, parts, done.size, lock):
        return replace(done, changed=False)
    with writing(output, done.size):
        _write(parts, lock, output, done.size, supply)
    return done


def plan(lock: Lock, signing: Signing, supply: Supply) -> list[Part]:
    """Every member in order: signed head, contents, installer, layout, then blobs."""
    table = Manifest(lock.name, lock.number, lock.items)
    generated, index = _layout(lock)
    parts = [_bytes(MANIFEST, manifest.dump(table))]
    from_supply = supply.open
    blobs = [_blob(blob, table, from_supply) for blob in lock.blobs]
    parts += [part for part in blobs if part.name == INSTALLER]
    parts += [_bytes("oci-layout", OCI_LAYOUT), _bytes("index.json", index)]
    known = {part.name for part in blobs}
    parts += [part for part in generated if part.name not in known]
    parts += [part for part in blobs if part.name != INSTALLER]
    signed = keys.sign(
        signing.folder,
        {part.name: part.target for part in parts},
        number=lock.number,
        created=lock.created,
        valid_days=lock.valid_days,
        passphrase=signing.passphrase,
    )
    return [*(_bytes(METADATA + name, data) for name, data in signed.items()), *parts]


def _blob(
    blob: LockedBlob, table: Manifest, from_supply: Callable[[LockedBlob], Iterator[bytes]]
) -> Part:
    name = member_name(blob.digest, table)
    mode = INSTALLER_MODE if name == INSTALLER else 0o644
    target = Target(blob.size, blob.digest)
    return Part(name, target, from_supply, mode, blob)


def _bytes(name: str, data: bytes) -> Part:
    target = Target(len(data), Digest(hashlib.sha256(data).hexdigest()))
    return Part(name, target, lambda: iter([data]))


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
    empty = _bytes(f"blobs/sha256/{hashlib.sha256(media.EMPTY).hexdigest()}", media.EMPTY)
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
    part = _bytes(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
    ref = f"keystone.local/{lock.name}:{lock.number}"
    content = _descriptor(media.MANIFEST, part.target.digest, len(data), {REF: ref})
    index.append(content)
    generated = [empty, part]
    for kind, data in referrers.manifests(lock.items, content, config):
        part = _bytes(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
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


def _placed(parts: Iterable[Part], lock: Lock) -> Iterator[tar.Placed]:
    mtime = int(lock.created.timestamp())
    return tar.place(tar.Member(p.name, p.target.size, p.mode, mtime) for p in parts)


def _size(parts: list[Part], lock: Lock) -> int:
    (last,) = deque(_placed(parts, lock), maxlen=1)
    return last.end + tar.end_bytes(last.end)


def _is_there(output: Path, parts: list[Part], size: int, lock: Lock) -> bool:
    """Whether the file is this very bundle: its signed head is, and it got its final name."""
    if not output.is_file() or output.stat().st_size != size:
        return False
    head = [part for part in parts if part.name.startswith(METADATA)]
    with output.open("rb") as file:
        for part, place in zip(head, _placed(head, lock), strict=True):
            file.seek(place.offset)
            if file.read(part.target.size) != b"".join(part.read()):
                return False
    return True


def _write(parts: list[Part], lock: Lock, output: Path, size: int, supply: Supply) -> None:
    part_file = output.with_name(f"{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    require_room(output, size, part_file.stat().st_size if part_file.exists() else 0)
    handle = again(part_file, os.O_RDWR | os.O_CREAT, 0o644)
    # Unbuffered: what was written survives a kill, so no whole member is fetched again.
    with (
        half_made(part_file, output, goes_on=True),
        open(handle, "r+b", buffering=0) as file,  # noqa: PTH123 a handle has no path
        log.progress(f"write {output.name}", size) as bar,
        Flusher(file.fileno()) as flusher,
    ):
        done, position = _whole(file, parts, lock)
        file.truncate(position)
        file.seek(position)
        bar.advance(position)
        left = islice(zip(parts, _placed(parts, lock), strict=True), done, None)
        with supply.ahead(part.blob for part in islice(parts, done, None) if part.blob):
            for part, place in left:
                _append(file, part, place, flusher)
                bar.advance(place.end - position)
                position = place.end
        write_all(file, bytes(tar.end_bytes(position)))
        bar.advance(size - position)
        os.fsync(file.fileno())
    part_file.replace(output)
    sync_directory(output.parent)


def _append(file: FileIO, part: Part, place: tar.Placed, flusher: Flusher) -> None:
    write_all(file, place.prefix)
    for chunk in part.read():
        write_all(file, chunk)
        flusher.wrote(len(chunk))
    write_all(file, bytes(tar.padded(part.target.size) - part.target.size))


def _whole(file: FileIO, parts: list[Part], lock: Lock) -> tuple[int, int]:
    """How many members the unfinished file holds whole, from its start, and where they end."""
    file.seek(0)
    end = 0
    for index, (part, place) in enumerate(zip(parts, _placed(parts, lock), strict=True)):
        prefix = place.prefix
        if file.read(len(prefix)) != prefix:  # a regular file gives all it has
            return index, end
        seen, left = hashlib.sha256(), part.target.size
        while left and (chunk := file.read(min(CHUNK, left))):
            seen.update(chunk)
            left -= len(chunk)
        rest = tar.padded(part.target.size) - part.target.size
        if left or seen.hexdigest() != part.target.digest.hex or len(file.read(rest)) != rest:
            return index, end
        end = place.end
    return len(parts), end
