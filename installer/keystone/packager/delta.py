"""Make a delta: the bundle of a lock without the blobs that the receiver's have-list names.

The delta depends only on the lock, the have-list and the old blobs available here (in the cache, or
in bundles given with --base): same input, same bytes. Patches are cached under the digests of their
old and new blob, so an interrupted run does not make them again.
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
from keystone.packager import pack, writer
from keystone.packager.members import Part, of_bytes, signed_head
from keystone.packager.sources import cache
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from keystone.bundle.delta.have_list import Have
    from keystone.bundle.model import Item
    from keystone.packager.lock import Lock
    from keystone.packager.members import Signing
    from keystone.packager.sources.upstream import Sources
    from keystone.packager.writer import Created

WORTH = 64 << 10
"""Bytes below which a blob is carried whole: a patch would save less than it costs to apply."""
CANDIDATES = 2
"""How many old blobs to try for each new blob."""


@dataclass(frozen=True)
class Base:
    """An older bundle file. places: offset and size in bytes of each blob's data in it."""

    path: Path
    places: dict[Digest, tuple[int, int]]


@dataclass(frozen=True)
class Receiver:
    """The receiver of a delta.

    have: the blobs that the receiver has. bases: older bundles here that contain some of them.
    """

    have: Have
    bases: tuple[Path, ...] = ()

    def create(
        self, lock: Lock, folder: Path, output: Path, signing: Signing, sources: Sources
    ) -> Created:
        """Write the delta of a lock's bundle. Parameters are those of `pack.bundle`.

        Raises SourceError when an upstream serves other bytes than the lock names.
        """
        supply = Supply(folder, sources)
        full = pack.plan(lock, signing, supply)
        parts = _plan(full, lock, supply, self)
        head = signed_head(parts, lock, signing)
        return writer.write([*head, *parts], lock, output, supply)


def _plan(full: list[Part], lock: Lock, supply: Supply, receiver: Receiver) -> list[Part]:
    """Return the members after the metadata."""
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
        of_bytes(MANIFEST, manifest.dump(table)),
        of_bytes(DELTA, delta_description.dump(description)),
        of_bytes(delta_description.HEAD, frames),
        *(patches[p.name][1] if p.name in patches else p for p in carried),
    ]


def _items(items: Sequence[Item], new: set[Digest]) -> tuple[Item, ...]:
    """Return the items of which the delta carries at least one blob."""
    return tuple(item for item in items if new & {item.digest, *item.blobs})


def _digest(parts: Sequence[Part], name: str) -> Digest:
    return next(part.target.digest for part in parts if part.name == name)


def _head(head: Sequence[Part], have: Have) -> tuple[tuple[HeadFile, ...], bytes]:
    """Return the files of the full bundle's head and their zstd frames.

    Roots have empty frames: they are members of the delta itself.
    """
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
    """Return the patches that are smaller than their new blob, by the blob's member name."""
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
    # Everything fetched ahead must be opened. Blobs in the cache are not opened, so leave them out.
    ahead = [p.blob for p, _ in tried if p.blob and not cache.has(p.target.digest, p.target.size)]
    total = sum(part.target.size for part, _ in tried)
    with log.progress("make patches of changed blobs", total) as bar, supply.ahead(ahead):
        for part, likely in tried:
            best = _best(part, likely, sizes, bases)
            # The same patch bytes for two blobs would be two entries for one member: use it once.
            used = best and best[0].member in {entry.member for entry, _ in found.values()}
            if best is not None and not used and len(found) < delta_description.MAX_PATCHES:
                found[part.name] = best
            bar.advance(part.target.size)
    return found


def _candidates(
    target: Target, items: Sequence[Item], old: Manifest, sizes: Mapping[Digest, int], have: Have
) -> list[Digest]:
    """Return old blobs of the same items as the new blob, the most similar size first."""
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
    """Return a patch from the cache, or make it now. An empty file means: carry the blob whole."""
    with _old(source, sizes[source], bases) as old, _new(part).open("rb") as new:
        form = unfold.shared(old, new)
        name = f"{patch.VERSION}-{form}-{source.hex}-{part.target.digest.hex}"
        path = cache.root() / "patches" / hashlib.sha256(name.encode()).hexdigest()
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            chunks = _verified_patch(form, old, new, part.target)
            write_chunks(path, chunks, path.with_name(f"{path.name}.part"))
    return form, path


def _verified_patch(form: str, old: IO[bytes], new: IO[bytes], target: Target) -> Iterator[bytes]:
    """Yield the patch if it is smaller than the blob and reproduces the blob; else nothing."""
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
            log.debug(f"{target.digest}: {error}; the delta carries the whole blob")
            return
        if seen.hexdigest() != target.digest.hex:
            log.debug(
                f"{target.digest}: a {form} patch does not reproduce it; the delta carries the "
                f"whole blob"
            )
            return
        kept.seek(0)
        while chunk := kept.read(CHUNK):
            yield chunk


def _new(part: Part) -> Path:
    """Return the new blob as a file: the cache keeps it until the delta is written."""
    target = part.target
    chunks = part.read()  # a blob fetched ahead must be opened, even if it is in the cache by now
    if cache.has(target.digest, target.size):
        return cache.path(target.digest)
    return cache.keep(target.digest, chunks)


@contextmanager
def _old(digest: Digest, size: int, bases: Sequence[Base]) -> Iterator[IO[bytes]]:
    """Open an old blob as a file with verified content. Raises DamagedBundleError."""
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
                f"{base.path}: its blob {digest} is damaged", hint="give another copy: --base FILE"
            )
        copy.flush()
        yield copy


def _base(path: Path) -> Base:
    """Find the blobs of a bundle. Nothing is verified here: `_old` hashes each blob it reads."""
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
            f"{path}: {error.message}", hint="--base must name an older bundle", code="KSB-23"
        ) from error


def _chunks(path: Path, target: Target) -> Iterator[bytes]:
    """Read a patch from the cache and verify it again: its digest is signed already."""
    seen = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            seen.update(chunk)
            yield chunk
    if seen.hexdigest() != target.digest.hex:
        raise DamagedBundleError(
            f"{path}: changed while the delta was written", hint="run the same command again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
