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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle import cache, keys, manifest, media, source_oci, tar
from keystone.bundle.addresses import is_loopback
from keystone.bundle.disk import sync_directory
from keystone.bundle.executable import executable
from keystone.bundle.model import Digest, Manifest
from keystone.bundle.opened import INSTALLER_MODE, member_name
from keystone.bundle.reader import CHUNK, INSTALLER, MANIFEST, METADATA, Target
from keystone.bundle.sources import Sources, local_file
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystone.bundle.lock import Lock, LockedBlob

PARALLEL = 6
ARTIFACT = "application/vnd.keystone.content.v1"
TITLE = "org.opencontainers.image.title"
REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Part:
    """A member to write: its name, what it must be, and how to get its bytes."""

    name: str
    target: Target
    read: Callable[[], Iterator[bytes]]
    mode: int = 0o644


@dataclass(frozen=True)
class Created:
    """What `create` did. size of the bundle in bytes; digest names it."""

    changed: bool
    digest: str
    size: int


@dataclass(frozen=True)
class Signing:
    """The folder with the keys, and what opens them."""

    folder: Path
    passphrase: str | None = None


def create(lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources) -> Created:
    """Write the bundle. folder: of the lock file, for local sources.

    Raises SourceError when an upstream gives other bytes than the lock names.
    """
    parts = plan(lock, folder, signing, sources)
    return write(parts, lock, output, before=lambda: prefetch(lock, sources))


def write(
    parts: list[Part], lock: Lock, output: Path, before: Callable[[], None] = lambda: None
) -> Created:
    """Write these members, the signed head first, dated as the lock is.

    before: is called unless all of it is there already.
    """
    size = _size(parts, lock)
    digest = next(p.target.digest for p in parts if p.name == f"{METADATA}targets.json")
    if _is_there(output, parts, size, lock):
        return Created(changed=False, digest=str(digest), size=size)
    before()
    _write(parts, output, size, int(lock.created.timestamp()))
    return Created(changed=True, digest=str(digest), size=size)


def plan(lock: Lock, folder: Path, signing: Signing, sources: Sources) -> list[Part]:
    """Every member in order: signed head, contents, installer, layout, then blobs."""
    table = Manifest(lock.name, lock.number, lock.items)
    generated, index = _layout(lock)
    parts = [_bytes(MANIFEST, manifest.dump(table))]
    blobs = [_blob(blob, table, folder, sources) for blob in lock.blobs]
    parts += [part for part in blobs if part.name == INSTALLER]
    parts += [_bytes("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), _bytes("index.json", index)]
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


def _blob(blob: LockedBlob, table: Manifest, folder: Path, sources: Sources) -> Part:
    name = member_name(blob.digest, table)
    mode = INSTALLER_MODE if name == INSTALLER else 0o644
    target = Target(blob.size, blob.digest)
    return Part(name, target, lambda: open_source(blob, folder, sources), mode)


def open_source(blob: LockedBlob, folder: Path, sources: Sources) -> Iterator[bytes]:
    """The bytes of a locked blob, from the cache or from where the lock says."""
    kind, _, rest = blob.source.partition(":")
    local = local_file(blob.source, folder)
    if kind == "inline":
        return iter([rest.encode()])
    if local is not None:
        return _file(local)
    if blob.source == "built:installer" and not cache.has(blob.digest, blob.size):
        return _file(executable())
    if cache.has(blob.digest, blob.size):
        return _file(cache.path(blob.digest))
    if kind == "built":
        raise ConfigurationError(
            f"{rest} was built when the lock was made and is no longer in {cache.root()}",
            hint="lock again: it is built again",
        )
    return sources.fetch(_address(blob, sources), blob.digest, blob.size, _accept(blob))


def _address(blob: LockedBlob, sources: Sources) -> str:
    if blob.source.startswith("registry:"):
        name = blob.source.removeprefix("registry:")
        return source_oci.address(sources, name, blob.digest, blob.media_type)
    return sources.rewrite(blob.source)


def _accept(blob: LockedBlob) -> dict[str, str]:
    return {"Accept": blob.media_type} if blob.media_type in media.ACCEPTED else {}


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _bytes(name: str, data: bytes) -> Part:
    target = Target(len(data), Digest(hashlib.sha256(data).hexdigest()))
    return Part(name, target, lambda: iter([data]))


def _layout(lock: Lock) -> tuple[list[Part], bytes]:
    """index.json, and an OCI artifact for what is no image, so that every blob is reachable."""
    index = []
    for item in lock.items:
        if item.kind == "image":
            ref = f"{item.name}{'@' if ':' in item.version else ':'}{item.version}"
            kind = item.labels["mediaType"]
            index.append(_descriptor(kind, item.digest, item.size, {REF: ref}))
    others = [item for item in lock.items if item.kind not in {"image", "installer"}]
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
    index.append(_descriptor(media.MANIFEST, part.target.digest, len(data), {REF: ref}))
    document = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": index}
    return [empty, part], json.dumps(document, sort_keys=True).encode()


def _descriptor(
    media_type: str, digest: Digest, size: int, annotations: dict[str, str]
) -> dict[str, object]:
    value: dict[str, object] = {"mediaType": media_type, "digest": str(digest), "size": size}
    return {**value, "annotations": annotations} if annotations else value


def _members(parts: list[Part], mtime: int) -> list[tar.Member]:
    return [tar.Member(part.name, part.target.size, part.mode, mtime) for part in parts]


def _size(parts: list[Part], lock: Lock) -> int:
    members = _members(parts, int(lock.created.timestamp()))
    end = list(tar.place(members))[-1].end
    return end + tar.end_bytes(end)


def _is_there(output: Path, parts: list[Part], size: int, lock: Lock) -> bool:
    """Whether the file is this very bundle: its signed head is, and it got its final name."""
    if not output.is_file() or output.stat().st_size != size:
        return False
    head = [part for part in parts if part.name.startswith(METADATA)]
    placed = tar.place(_members(head, int(lock.created.timestamp())))
    with output.open("rb") as file:
        for part, place in zip(head, placed, strict=True):
            file.seek(place.offset)
            if file.read(part.target.size) != b"".join(part.read()):
                return False
    return True


def prefetch(lock: Lock, sources: Sources) -> None:
    """Bring many small things from far away into the cache, several at a time."""
    wanted = [
        blob
        for blob in lock.blobs
        if blob.source.startswith(("http://", "https://"))
        and not is_loopback(sources.rewrite(blob.source))
        and not cache.has(blob.digest, blob.size)
    ]
    if not wanted:
        return
    total = sum(blob.size for blob in wanted)

    def fetch(blob: LockedBlob) -> int:
        own = Sources(sources.mirrors)
        cache.keep(blob.digest, own.fetch(blob.source, blob.digest, blob.size))
        return blob.size

    with (
        log.progress(f"fetch {len(wanted)} files", total) as bar,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        for size in pool.map(fetch, wanted):
            bar.advance(size)


def _write(parts: list[Part], output: Path, size: int, mtime: int) -> None:
    part_file = output.with_name(f"{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    placed = list(tar.place(_members(parts, mtime)))
    with part_file.open("a+b") as file, log.progress(f"write {output.name}", size) as bar:
        done = _whole(file, parts, placed)
        position = placed[done - 1].end if done else 0
        file.truncate(position)
        file.seek(position)
        bar.advance(position)
        for part, place in zip(parts[done:], placed[done:], strict=True):
            _append(file, part, place)
            bar.advance(place.end - position)
            position = place.end
        file.write(bytes(tar.end_bytes(position)))
        bar.advance(size - position)
        file.flush()
        os.fsync(file.fileno())
    part_file.replace(output)
    sync_directory(output.parent)


def _append(file: IO[bytes], part: Part, place: tar.Placed) -> None:
    file.write(place.prefix)
    seen, count = hashlib.sha256(), 0
    for chunk in part.read():
        seen.update(chunk)
        count += len(chunk)
        file.write(chunk)
    if count != part.target.size or seen.hexdigest() != part.target.digest.hex:
        raise ConfigurationError(
            f"{part.name}: its source has other bytes than the lock names", hint="lock again"
        )
    file.write(bytes(tar.padded(count) - count))


def _whole(file: IO[bytes], parts: list[Part], placed: list[tar.Placed]) -> int:
    """How many members the unfinished file holds whole, from its start."""
    file.seek(0)
    for index, (part, place) in enumerate(zip(parts, placed, strict=True)):
        prefix = place.prefix
        if file.read(len(prefix)) != prefix:
            return index
        seen, left = hashlib.sha256(), part.target.size
        while left and (chunk := file.read(min(CHUNK, left))):
            seen.update(chunk)
            left -= len(chunk)
        rest = tar.padded(part.target.size) - part.target.size
        if left or seen.hexdigest() != part.target.digest.hex or len(file.read(rest)) != rest:
            return index
    return len(parts)
