"""Join parts from any number of media, in any order, chunk by chunk.

A chunk comes from an undamaged copy of its part, or is restored from parity.
Into a file: valid chunks are kept in `<output>.join` until none is missing, so the media may be
inserted one after the other, and an interrupted run can continue. Only a complete file gets its
final name. Into a pipe: all parts must be available at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle.format import MANIFEST, MAX_MANIFEST
from keystone.bundle.parts import parity
from keystone.bundle.parts import part as parts
from keystone.bundle.parts.part import CHUNK, DIGEST, Part, Range, Set
from keystone.errors import DamagedBundleError, RefusedError
from keystone.files import open_own, require_room, settle, write_file, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SHOWN = 20


@dataclass(frozen=True)
class Joined:
    """Result of a join. size: of the bundle in bytes; repaired: bytes restored from parity."""

    bundle: str
    number: int
    size: int
    repaired: int


@dataclass(frozen=True)
class Region:
    """A data part in the unfinished file, with the chunks that earlier runs have joined."""

    file: int
    set: Set
    number: int
    chunks: bytes

    def read(self, row: int) -> bytes | None:
        """Read a chunk. Returns None when it is not joined yet."""
        size = self.set.chunk_length(self.number, row)
        data = os.pread(self.file, size, (self.number - 1) * self.set.part_bytes + row * CHUNK)
        return data if parts.is_chunk(data, self.chunks, row) else None


@dataclass
class Collection:
    """All available copies of all parts.

    known: digests of the chunks of data parts; parity_known: of parity parts. repaired: bytes
    restored from parity.
    """

    set: Set
    copies: dict[int, list[Part | Region]] = field(default_factory=dict)
    known: dict[int, bytes] = field(default_factory=dict)
    parity_known: dict[int, bytes] = field(default_factory=dict)
    repaired: int = 0

    def add(self, part: Part | Region, where: str) -> None:
        """Add a copy of a part. Raises DamagedBundleError (KSB-06) when digests contradict."""
        self.copies.setdefault(part.number, []).append(part)
        if part.number <= self.set.data:
            self._record(self.known, part.number, part.chunks, where)
        elif isinstance(part, Part):
            self._record(self.parity_known, part.number, part.chunks, where)
            each = self.set.rows(1) * DIGEST
            for number in range(1, self.set.data + 1):
                chunks = part.all_chunks[(number - 1) * each : number * each]
                self._record(self.known, number, chunks, where)

    def _record(self, known: dict[int, bytes], number: int, chunks: bytes, where: str) -> None:
        """Store digests. Contradicting ones are manipulation: damage cannot cause them."""
        if known.setdefault(number, chunks) != chunks:
            raise DamagedBundleError(
                f"{where}: its digests of part {number} contradict those of the other parts",
                hint="verify each part alone (keystone-install bundle verify PART), and leave out "
                "parts that do not come from the person who split the bundle",
                code="KSB-06",
            )

    def chunk(self, number: int, row: int) -> bytes | None:
        """A chunk of a data part, from a copy or restored from parity; None if impossible."""
        data = self._copy(number, row)
        if data is None and number in self.known:
            data = self._repair(number, row)
        return data

    def _copy(self, number: int, row: int) -> bytes | None:
        for part in self.copies.get(number, ()):
            data = part.read(row)
            if data is not None:
                return data
        return None

    def _repair(self, number: int, row: int) -> bytes | None:
        found = self.set
        have: dict[int, bytes] = {}
        for other in [n for n in range(1, found.total + 1) if n != number]:
            if len(have) == found.data:
                break
            # After its end, a data part counts as zeros.
            data = self._copy(other, row) if found.chunk_length(other, row) else b""
            if data is not None:
                have[other] = data
        if len(have) < found.data:
            return None
        using = tuple(other - 1 for other in sorted(have))
        factors = parity.recovery(found.data, found.parity, using, number - 1)
        total = parity.Sum()
        for index, factor in zip(using, factors, strict=True):
            total.add(factor, have[index + 1])
        data = total.result(CHUNK)[: found.chunk_length(number, row)]
        if not parts.is_chunk(data, self.known[number], row):
            return None
        self.repaired += len(data)
        return data


def join_to_pipe(found: Sequence[Part], sink: IO[bytes]) -> Joined:
    """Write the bundle to a pipe.

    Raises DamagedBundleError (KSB-19) before it writes anything when a part is missing, and at the
    first chunk that cannot be restored.
    """
    collection = _collection(found)
    wanted = collection.set
    absent = [n for n in range(1, wanted.data + 1) if n not in collection.known]
    if absent:
        raise _missing(found[0], [_stretch(wanted, number) for number in absent])
    with log.progress("join", wanted.size) as bar, writing("standard output"):
        for number, row in _places(wanted):
            data = collection.chunk(number, row)
            if data is None:
                raise _missing(found[0], [wanted.place(number, row)])
            sink.write(data)
            bar.advance(len(data))
        sink.flush()
    return Joined(wanted.digest, wanted.number, wanted.size, collection.repaired)


def join_to_file(found: Sequence[Part], output: Path) -> Joined:
    """Write the bundle to a file, or as much of it as is available.

    Raises DamagedBundleError (KSB-19) when chunks are missing; the next call can add other parts.
    Raises HostError when the disk is full or cannot be written, RefusedError when another file
    exists at `output` or another process joins there.
    """
    with writing(output, found[0].set.size):
        return _join_to_file(found, output)


def _join_to_file(found: Sequence[Part], output: Path) -> Joined:
    wanted = found[0].set
    folder = output.with_name(f"{output.name}.join")
    if output.exists():
        if not _is_joined(_collection(found), output, folder):
            raise RefusedError(
                f"{output}: exists, but is not this bundle",
                hint="remove it, or choose another name",
            )
        shutil.rmtree(folder, ignore_errors=True)
        return Joined(wanted.digest, wanted.number, wanted.size, 0)
    with _unfinished(folder, wanted) as file:
        require_room(output, wanted.size, os.fstat(file).st_blocks * 512)
        collection = _collection(found)
        seen = dict(_journal(folder, wanted))
        for number, chunks in seen.items():
            collection.add(Region(file, wanted, number, chunks), str(folder))
        for number, chunks in collection.known.items():
            write_file(folder / f"{number:03d}", chunks)
        holes = _fill(collection, file, seen)
        os.fsync(file)
        if holes:
            raise _missing(found[0], holes, folder)
        os.ftruncate(file, wanted.size)
        os.fsync(file)
        settle(folder / "data", output, synced=True)
        shutil.rmtree(folder)
    return Joined(wanted.digest, wanted.number, wanted.size, collection.repaired)


def _is_joined(collection: Collection, output: Path, folder: Path) -> bool:
    """Whether the file is the complete joined bundle. Requires the digests of all its chunks."""
    wanted = collection.set
    if output.stat().st_size != wanted.size:
        return False
    known = {**(dict(_journal(folder, wanted)) if folder.is_dir() else {}), **collection.known}
    with output.open("rb") as file:
        return all(
            number in known
            and Region(file.fileno(), wanted, number, known[number]).read(row) is not None
            for number, row in _places(wanted)
        )


def _fill(collection: Collection, file: int, seen: dict[int, bytes]) -> list[Range]:
    """Write every available chunk. Returns the ranges of the missing ones."""
    wanted = collection.set
    holes: list[Range] = []
    with log.progress("join", wanted.size) as bar:
        for number, row in _places(wanted):
            size = wanted.chunk_length(number, row)
            here = Region(file, wanted, number, seen[number]) if number in seen else None
            if here is None or here.read(row) is None:
                data = collection.chunk(number, row)
                if data is None:
                    start, end = wanted.place(number, row)
                    # Merge adjacent missing chunks: there are often thousands in a row.
                    last = holes.pop() if holes and holes[-1][1] == start else (start, end)
                    holes.append((last[0], end))
                    continue
                _write(file, data, wanted.place(number, row)[0])
            bar.advance(size)
    return holes


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def _collection(found: Sequence[Part]) -> Collection:
    collection = Collection(found[0].set)
    for part in found:
        collection.add(part, str(part.path))
    return collection


def _places(wanted: Set) -> Iterator[tuple[int, int]]:
    for number in range(1, wanted.data + 1):
        for row in range(wanted.rows(number)):
            yield number, row


def _stretch(wanted: Set, number: int) -> Range:
    """The range of the bundle that a data part covers."""
    start = (number - 1) * wanted.part_bytes
    return start, start + wanted.length(number)


@contextmanager
def _unfinished(folder: Path, wanted: Set) -> Iterator[int]:
    """Open and lock the unfinished file, for one process and one set of parts.

    Raises RefusedError when another process holds the lock, or for another set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open_own(folder / "data", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"{folder}: another keystone-install is joining here",
                hint="wait until it ends, and run the same command again",
            ) from error
        document = json.dumps(asdict(wanted), sort_keys=True).encode()
        kept = folder / "set.json"
        if kept.exists() and kept.read_bytes() != document:
            raise RefusedError(
                f"{folder}: contains chunks of another bundle, or of a split with other sizes",
                hint="remove the folder, or choose another --output",
            )
        write_file(kept, document)
        yield file
    finally:
        os.close(file)


def _journal(folder: Path, wanted: Set) -> Iterator[tuple[int, bytes]]:
    """The parts that earlier runs have joined from, with the digests of their chunks."""
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"[0-9]{3}", path.name):
            number, chunks = int(path.name), path.read_bytes()
            if 1 <= number <= wanted.data and len(chunks) == wanted.rows(number) * DIGEST:
                yield number, chunks


def _missing(part: Part, holes: Sequence[Range], folder: Path | None = None) -> DamagedBundleError:
    """The error that names incomplete parts and blobs."""
    wanted = part.set
    numbers = sorted(
        {
            number
            for start, end in holes
            for number in range(start // wanted.part_bytes + 1, (end - 1) // wanted.part_bytes + 2)
        }
    )
    names = names_in(part, holes)
    shown = "\n  ".join(names[:SHOWN])
    more = f"\n  and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    kept = f"; valid chunks are kept in {folder}" if folder else ""
    return DamagedBundleError(
        f"missing or damaged: part {', '.join(map(str, numbers))} of {wanted.data} "
        f"(and {wanted.parity} for parity); affected:\n  {shown}{more}",
        hint="bring another copy, or as many parity parts, and run the same command again" + kept,
        code="KSB-19",
    )


def names_in(part: Part, holes: Iterable[Range]) -> list[str]:
    """The members of the bundle with data in these ranges, by name and owner."""
    owner = _owners(part)
    names: dict[str, None] = {}
    for start, end in parts.merged(holes):
        names.update(dict.fromkeys(parts.touching(part.layout, start, end)))
    return [f"{name} ({owner.get(name, 'the bundle itself')})" for name in names]


def _owners(part: Part) -> dict[str, str]:
    """The owner of each blob. For messages only, because the head is not verified here."""
    from keystone.bundle import manifest  # noqa: PLC0415
    from keystone.bundle.read import stream  # noqa: PLC0415

    with part.open_head() as archive:
        stream.read_metadata(archive)
        member = archive.next()
        if member is None or member.name != MANIFEST or member.size > MAX_MANIFEST:
            return {}
        table = manifest.load(b"".join(bytes(chunk) for chunk in archive.chunks()))
    found = {}
    for item in table.items:
        for digest in (item.digest, *item.blobs):
            found[f"blobs/sha256/{digest.hex}"] = f"{item.kind} {item.name} {item.version}"
    return found
