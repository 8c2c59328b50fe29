"""Join parts from any number of media, in any order, a chunk at a time.

A chunk comes from a part that has it whole, from another copy of that part, or out of parity.
Into a file: what is whole is kept in `<output>.join` until nothing is missing, so media may come
one after the other and a run that was cut goes on; only then does the file get its name. Into a
pipe: everything must be at hand at once.
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
from keystone.files import again, require_room, sync_directory, write_file, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SHOWN = 20


@dataclass(frozen=True)
class Joined:
    """What `join` did. repaired: bytes that came out of parity."""

    bundle: str
    number: int
    size: int
    repaired: int


@dataclass(frozen=True)
class Region:
    """A data part as far as it was joined already: a place in the unfinished file."""

    file: int
    set: Set
    number: int
    chunks: bytes

    def read(self, row: int) -> bytes | None:
        """A chunk; None when it is not there yet."""
        size = self.set.chunk_length(self.number, row)
        data = os.pread(self.file, size, (self.number - 1) * self.set.part_bytes + row * CHUNK)
        return data if parts.is_chunk(data, self.chunks, row) else None


@dataclass
class Collection:
    """All copies of all parts that are at hand.

    known: digests of the chunks of data parts; sums: of parity parts.
    """

    set: Set
    copies: dict[int, list[Part | Region]] = field(default_factory=dict)
    known: dict[int, bytes] = field(default_factory=dict)
    sums: dict[int, bytes] = field(default_factory=dict)
    repaired: int = 0

    def add(self, part: Part | Region, where: str) -> None:
        """One more copy of a part. Raises DamagedBundleError when it contradicts another one."""
        self.copies.setdefault(part.number, []).append(part)
        if part.number <= self.set.data:
            self._know(self.known, part.number, part.chunks, where)
        elif isinstance(part, Part):
            self._know(self.sums, part.number, part.chunks, where)
            each = self.set.rows(1) * DIGEST
            for number in range(1, self.set.data + 1):
                chunks = part.all_chunks[(number - 1) * each : number * each]
                self._know(self.known, number, chunks, where)

    def _know(self, known: dict[int, bytes], number: int, chunks: bytes, where: str) -> None:
        """Damage does not look like this: what says other digests was made to say them."""
        if known.setdefault(number, chunks) != chunks:
            raise DamagedBundleError(
                f"{where}: says of part {number} something else than the other parts here do",
                hint="verify each part by itself (keystone-install bundle verify PART), and leave "
                "out what does not come from whoever split the bundle",
                code="KSB-06",
            )

    def chunk(self, number: int, row: int) -> bytes | None:
        """A chunk of a data part, from a copy or out of parity; None when there is no way."""
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
            # Behind its end a data part counts as zeros.
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
    """Write the bundle to a pipe. Raises DamagedBundleError before the first missing byte."""
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
    """Write the bundle, or as much of it as can be had.

    Raises DamagedBundleError when something is missing: the next call goes on, with other parts.
    Raises HostError when the disk does not take it.
    """
    with writing(output, found[0].set.size):
        return _join_to_file(found, output)


def _join_to_file(found: Sequence[Part], output: Path) -> Joined:
    wanted = found[0].set
    folder = output.with_name(f"{output.name}.join")
    if output.exists():
        if not _is_joined(_collection(found), output, folder):
            raise RefusedError(
                f"{output}: something else is there", hint="remove it, or choose another name"
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
        (folder / "data").replace(output)
        sync_directory(output.parent)
        shutil.rmtree(folder)
    return Joined(wanted.digest, wanted.number, wanted.size, collection.repaired)


def _is_joined(collection: Collection, output: Path, folder: Path) -> bool:
    """Whether a file is the joined bundle already, as far as all its chunks are known."""
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
    """Write every chunk that can be had; returns where those lie that cannot."""
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
                    # What is missing is missing in a row, often by thousands.
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
    """All of a data part."""
    start = (number - 1) * wanted.part_bytes
    return start, start + wanted.length(number)


@contextmanager
def _unfinished(folder: Path, wanted: Set) -> Iterator[int]:
    """The unfinished file, for one process at a time and one set of parts."""
    folder.mkdir(parents=True, exist_ok=True)
    file = again(folder / "data", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"{folder}: another keystone-install is joining here", hint="wait for it to end"
            ) from error
        document = json.dumps(asdict(wanted), sort_keys=True).encode()
        kept = folder / "set.json"
        if kept.exists() and kept.read_bytes() != document:
            raise RefusedError(
                f"{folder}: holds what was joined of another bundle or split",
                hint="remove the folder, or choose another --output",
            )
        write_file(kept, document)
        yield file
    finally:
        os.close(file)


def _journal(folder: Path, wanted: Set) -> Iterator[tuple[int, bytes]]:
    """Parts that were joined from before: the digests of their chunks."""
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"[0-9]{3}", path.name):
            number, chunks = int(path.name), path.read_bytes()
            if 1 <= number <= wanted.data and len(chunks) == wanted.rows(number) * DIGEST:
                yield number, chunks


def _missing(part: Part, holes: Sequence[Range], folder: Path | None = None) -> DamagedBundleError:
    """Which parts and which blobs are not whole."""
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
    kept = f"; what was whole is kept in {folder}" if folder else ""
    return DamagedBundleError(
        f"missing or damaged: part {', '.join(map(str, numbers))} of {wanted.data} "
        f"(and {wanted.parity} for parity); in it:\n  {shown}{more}",
        hint=f"bring another copy, or as many parity parts, and run the same again{kept}",
        code="KSB-19",
    )


def names_in(part: Part, holes: Iterable[Range]) -> list[str]:
    """The members of the bundle of which some data lies in these places, by name and owner."""
    owner = _owners(part)
    names: dict[str, None] = {}
    for start, end in parts.joined(holes):
        names.update(dict.fromkeys(parts.touching(part.layout, start, end)))
    return [f"{name} ({owner.get(name, 'the bundle itself')})" for name in names]


def _owners(part: Part) -> dict[str, str]:
    """What each blob belongs to, for messages only: the head is not verified here."""
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
