"""Make a delta: the bundle of a lock without what the receiver's have-list names.

Everything that decides is in the lock, the have-list and the old blobs that are at hand (in the
cache, or in bundles given as base): same input, same bytes. Patches are kept in the cache under
the names of what they lead from and to, so a run that was cut goes on.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle import manifest
from keystone.bundle.format import CHUNK, DELTA, INSTALLER, MANIFEST, METADATA, SCRATCH, Target
from keystone.bundle.formats import patch, unfold
from keystone.bundle.model import Digest, Manifest
from keystone.bundle.read import delta_description
from keystone.bundle.read.delta_description import Delta, Encoded, HeadFile
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.read.stream import TarStream, read_metadata
from keystone.bundle.trust.verify import stored_targets
from keystone.errors import DamagedBundleError
from keystone.files import write_chunks
from keystone.packager import writer
from keystone.packager.keys import keys
from keystone.packager.sources import cache
from keystone.packager.supply import Supply
from keystone.packager.writer import Created, Part, Signing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from keystone.bundle.delta.have_list import Have
    from keystone.bundle.model import Item
    from keystone.packager.lock import Lock
    from keystone.packager.sources.upstream import Sources

WORTH = 64 << 10
"""Bytes below which a blob is carried whole: a patch would save less than it costs to apply."""
CANDIDATES = 2
"""How many old blobs are tried for one new one."""


@dataclass(frozen=True)
class Base:
    """An older bundle at hand: where each blob's data starts in it, in bytes."""

    path: Path
    places: dict[Digest, tuple[int, int]]


@dataclass(frozen=True)
class Receiver:
    """Whom a delta is for: what they have, and older bundles at hand that hold some of it."""

    have: Have
    bases: tuple[Path, ...] = ()

    def create(
        self, lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources
    ) -> Created:
        """Write the delta of a lock's bundle, as writer.create writes the bundle.

        Raises SourceError when an upstream gives other bytes than the lock names.
        """
        supply = Supply(folder, sources)
        full = writer.plan(lock, signing, supply)
        parts = _plan(full, lock, supply, self)
        signed = keys.sign(
            signing.folder,
            {part.name: part.target for part in parts},
            number=lock.number,
            created=lock.created,
            valid_days=lock.valid_days,
            passphrase=signing.passphrase,
        )
        own = [_bytes(METADATA + name, data) for name, data in signed.items()]
        return writer.write([*own, *parts], lock, output, supply)


def _plan(full: list[Part], lock: Lock, supply: Supply, receiver: Receiver) -> list[Part]:
    """The members after the metadata."""
    have = receiver.have
    head = [part for part in full if delta_description.in_head(part.name)]
    carried = [p for p in full if p not in head and not have.has(p.target.digest.hex)]
    new = {part.target.digest for part in carried}
    bases = [_base(path) for path in receiver.bases]
    patches = _patches(carried, lock.items, have, bases, supply)
    left = [part for part in full if part not in head and part.target.digest not in new]
    files, frames = _head(head, have)
    description = Delta(
        name=lock.name,
        number=lock.number,
        digest=_digest(head, f"{METADATA}targets.json"),
        base=have.digest,
        base_number=have.number,
        head=files,
        encoded=tuple(entry for entry, _ in patches.values()),
        left_out=len(left),
        left_out_bytes=sum(part.target.size for part in left),
    )
    table = Manifest(lock.name, lock.number, _items(lock.items, new))
    return [
        _bytes(MANIFEST, manifest.dump(table)),
        _bytes(DELTA, delta_description.dump(description)),
        _bytes(delta_description.HEAD, frames),
        *(patches[p.name][1] if p.name in patches else p for p in carried),
    ]


def _items(items: Sequence[Item], new: set[Digest]) -> tuple[Item, ...]:
    """The items of which anything is carried."""
    return tuple(item for item in items if new & {item.digest, *item.blobs})


def _digest(parts: Sequence[Part], name: str) -> Digest:
    return next(part.target.digest for part in parts if part.name == name)


def _head(head: Sequence[Part], have: Have) -> tuple[tuple[HeadFile, ...], bytes]:
    """The files of the full bundle's head and their frames. Roots are in the delta anyway."""
    files, frames = [], []
    for part in head:
        old = have.heads.get(part.name.removeprefix(METADATA), b"")
        old = old if patch.is_prefix(old) else b""
        shared = part.name.endswith(".root.json")
        frame = b"" if shared else patch.patch_bytes(old, b"".join(part.read()))
        source = Digest(hashlib.sha256(old).hexdigest()) if old else None
        size, digest = part.target.size, part.target.digest
        files.append(HeadFile(part.name, size, digest, source, len(frame)))
        frames.append(frame)
    return tuple(files), b"".join(frames)


def _patches(
    carried: Sequence[Part],
    items: Sequence[Item],
    have: Have,
    bases: Sequence[Base],
    supply: Supply,
) -> dict[str, tuple[Encoded, Part]]:
    """The patches that are smaller than what they make, by the name of what they make."""
    if have.table is None:
        return {}
    old, sizes = have.table, have.sizes
    tried: list[tuple[Part, list[Digest]]] = []
    for part in carried:
        if part.target.size >= WORTH:
            likely = _candidates(part.target, items, old, sizes, have)
            likely = [digest for digest in likely if _at_hand(digest, sizes, bases)]
            tried += [(part, likely)] if likely else []
    found: dict[str, tuple[Encoded, Part]] = {}
    # What is fetched ahead must be opened; what the cache has is not.
    ahead = [p.blob for p, _ in tried if p.blob and not cache.has(p.target.digest, p.target.size)]
    total = sum(part.target.size for part, _ in tried)
    with log.progress("look for what changed little", total) as bar, supply.ahead(ahead):
        for part, likely in tried:
            best = _best(part, likely, sizes, bases)
            # One patch that makes two blobs of two would be one member with two names.
            used = best and best[0].member in {entry.member for entry, _ in found.values()}
            if best is not None and not used and len(found) < delta_description.MAX_PATCHES:
                found[part.name] = best
            bar.advance(part.target.size)
    return found


def _candidates(
    target: Target, items: Sequence[Item], old: Manifest, sizes: Mapping[Digest, int], have: Have
) -> list[Digest]:
    """Old blobs of the things that the new one belongs to, the likeliest by size first."""
    names = {
        (item.kind, item.name, item.labels.get("suite"), item.labels.get("architecture"))
        for item in items
        if target.digest in {item.digest, *item.blobs}
    }
    found = {
        digest
        for item in old.items
        if (item.kind, item.name, item.labels.get("suite"), item.labels.get("architecture"))
        in names
        for digest in (item.digest, *item.blobs)
        if sizes.get(digest, 0) >= WORTH and have.has(digest.hex)
    }
    return sorted(found, key=lambda digest: (abs(sizes[digest] - target.size), digest))


def _at_hand(digest: Digest, sizes: Mapping[Digest, int], bases: Sequence[Base]) -> bool:
    return cache.has(digest, sizes[digest]) or any(_in(base, digest, sizes) for base in bases)


def _in(base: Base, digest: Digest, sizes: Mapping[Digest, int]) -> bool:
    return digest in base.places and base.places[digest][1] == sizes[digest]


def _best(
    part: Part, likely: list[Digest], sizes: Mapping[Digest, int], bases: Sequence[Base]
) -> tuple[Encoded, Part] | None:
    best: tuple[Encoded, Part] | None = None
    size = part.target.size
    for source in likely[:CANDIDATES]:
        form, path = _patch(part, source, sizes, bases)
        if 0 < path.stat().st_size < size:
            size = path.stat().st_size
            target = Target(size, Digest(_sha256(path)))
            member = f"{delta_description.PATCHES}{target.digest.hex}"
            carried = Part(member, target, partial(_chunks, path, target))
            best = Encoded(part.name, member, source, form), carried
    return best


def _patch(
    part: Part, source: Digest, sizes: Mapping[Digest, int], bases: Sequence[Base]
) -> tuple[str, Path]:
    """A patch out of the cache, or made now. An empty file stands for one not worth carrying."""
    with _old(source, sizes[source], bases) as old, _new(part).open("rb") as new:
        form = unfold.shared(old, new)
        name = f"{patch.VERSION}-{form}-{source.hex}-{part.target.digest.hex}"
        path = cache.root() / "patches" / hashlib.sha256(name.encode()).hexdigest()
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            pieces = _proved(form, old, new, part.target)
            write_chunks(path, pieces, path.with_name(f"{path.name}.part"))
    return form, path


def _proved(form: str, old: IO[bytes], new: IO[bytes], target: Target) -> Iterator[bytes]:
    """The patch, when it is smaller than the blob and was seen to make it; otherwise nothing."""
    with tempfile.TemporaryFile(dir=SCRATCH) as kept:
        try:
            with (
                unfold.unfolded(form, old, SCRATCH) as before,
                unfold.unfolded(form, new, SCRATCH) as after,
            ):
                for piece in patch.make(before, after):
                    kept.write(piece)
                    if kept.tell() >= target.size:
                        return
                kept.flush()
                seen = hashlib.sha256()
                for piece in unfold.folded(form, patch.apply(before, kept)):
                    seen.update(piece)
        except ValueError as error:
            log.debug(f"{target.digest}: {error}; carried whole")
            return
        if seen.hexdigest() != target.digest.hex:
            log.debug(f"{target.digest}: {form} does not make it again; carried whole")
            return
        kept.seek(0)
        while chunk := kept.read(CHUNK):
            yield chunk


def _new(part: Part) -> Path:
    """The new blob as a file: the cache keeps it until the delta is written."""
    target = part.target
    chunks = part.read()  # what was begun ahead must be opened, even when it is in the cache by now
    if cache.has(target.digest, target.size):
        return cache.path(target.digest)
    return cache.keep(target.digest, chunks)


@contextmanager
def _old(digest: Digest, size: int, bases: Sequence[Base]) -> Iterator[IO[bytes]]:
    """An old blob as a file whose bytes were hashed."""
    if cache.has(digest, size):
        with cache.path(digest).open("rb") as file:
            yield file
        return
    base = next(base for base in bases if digest in base.places)
    offset, _ = base.places[digest]
    with tempfile.TemporaryFile(dir=SCRATCH) as copy, base.path.open("rb") as file:
        file.seek(offset)
        seen, left = hashlib.sha256(), size
        while left and (chunk := file.read(min(left, CHUNK))):
            seen.update(chunk)
            copy.write(chunk)
            left -= len(chunk)
        if seen.hexdigest() != digest.hex:
            raise DamagedBundleError(
                f"{base.path}: {digest} is damaged in it", hint="give another copy: --base FILE"
            )
        copy.flush()
        yield copy


def _base(path: Path) -> Base:
    """Where the blobs of a bundle are; nothing of it is believed before it was hashed."""
    places: dict[Digest, tuple[int, int]] = {}
    with open_medium(path) as medium:
        archive = TarStream(medium.stream)
        targets = _targets(path, read_metadata(archive)["targets.json"])
        while (member := archive.next()) is not None:
            target = targets.get(member.name)
            if target is not None and member.name.startswith(("blobs/", INSTALLER)):
                places[target.digest] = (archive.position, member.size)
            archive.skip()
    return Base(path, places)


def _targets(path: Path, data: bytes) -> dict[str, Target]:
    try:
        return stored_targets(data)
    except DamagedBundleError as error:
        raise DamagedBundleError(
            f"{path}: {error.message}", hint="--base names an older bundle", code="KSB-23"
        ) from error


def _bytes(name: str, data: bytes) -> Part:
    target = Target(len(data), Digest(hashlib.sha256(data).hexdigest()))
    return Part(name, target, lambda: iter([data]))


def _chunks(path: Path, target: Target) -> Iterator[bytes]:
    """A patch out of the cache, checked again: it was signed when it was looked at."""
    seen = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            seen.update(chunk)
            yield chunk
    if seen.hexdigest() != target.digest.hex:
        raise DamagedBundleError(f"{path}: changed meanwhile", hint="run the same command again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
