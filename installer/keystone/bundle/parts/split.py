"""Split a bundle into parts.

A part with its final name is complete. After an interruption, the next run makes only the rest.
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Self

from keystone import log
from keystone.bundle.format import MANIFEST
from keystone.bundle.formats import tar
from keystone.bundle.parts import parity
from keystone.bundle.parts import part as parts
from keystone.bundle.parts.part import CHUNK, Set
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.read.stream import TarStream, read_metadata
from keystone.bundle.trust import tuf_shape
from keystone.errors import DamagedBundleError, HostError, RefusedError, UsageError
from keystone.files import create, free, require_room, settle, sync_directory, writing

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SplitResult:
    """Result of `split`. size: bytes of the largest part; made: number of parts this run wrote."""

    bundle: str
    parts: tuple[str, ...]
    data: int
    parity: int
    size: int
    made: int


@dataclass(frozen=True)
class _Source:
    """The bundle, and the content of it that each part repeats."""

    path: Path
    set: Set
    head: bytes
    layout: bytes
    mtime: int

    def place(self, number: int, chunks: bytes, every: bytes) -> list[tuple[tar.Placed, bytes]]:
        """The members of a part with their content; `data` is last, with empty content."""
        every = every if number > self.set.data else b""
        name, description = parts.describe(self.set, number, chunks, every)
        small = {name: description, "head": self.head, "layout": self.layout, "chunks": chunks}
        if number > self.set.data:
            small["all-chunks"] = every
        members = [tar.Member(n, len(d), 0o644, self.mtime) for n, d in small.items()]
        members.append(tar.Member("data", self.set.length(number), 0o644, self.mtime))
        return list(zip(tar.place(members), [*small.values(), b""], strict=True))

    @property
    def no_digests(self) -> bytes:
        """Zeros, as many as the all-chunks of a parity part have bytes."""
        has_parity = self.set.parity > 0
        return bytes(self.set.all_rows * parts.DIGEST if has_parity else 0)

    def file_size(self, number: int) -> int:
        """Bytes of a part's file."""
        chunks = bytes(self.set.rows(number) * parts.DIGEST)
        end = self.place(number, chunks, self.no_digests)[-1][0].end
        return end + tar.end_bytes(end)


def split(bundle: Path, folder: Path, size: int, extra: int = 0) -> SplitResult:
    """Split `bundle` into files of at most `size` bytes in `folder`, plus `extra` parity parts.

    Does not verify the bundle: every reader of a part and of the joined bundle does that.
    Raises UsageError when `size` is too small for any data, HostError when the disk is full or
    cannot be written, RefusedError when another file has the name of a part.
    """
    with writing(folder):
        return _split(bundle, folder, size, extra)


def _split(bundle: Path, folder: Path, size: int, extra: int) -> SplitResult:
    source = _fit(_scan(bundle), size, extra)
    names = [folder / f"{bundle.name}.{n:03d}" for n in range(1, source.set.total + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n, path in enumerate(names, 1) if not _is_there(path, source, n)]
    _require_room(source, names, missing)
    work = sum(source.set.length(n) for n in range(1, source.set.total + 1))
    every: list[bytes] = []
    with bundle.open("rb", buffering=0) as file, log.progress(f"split {bundle.name}", work) as bar:
        for number in range(1, source.set.data + 1):
            if number in missing:
                every.append(_data(source, file, number, names[number - 1]))
            else:
                every.append(parts.open_part(names[number - 1]).chunks)
            bar.advance(source.set.length(number))
        if any(number > source.set.data for number in missing):
            _parity(source, file, names[source.set.data :], b"".join(every))
        bar.advance(sum(source.set.length(n) for n in range(source.set.data + 1, len(names) + 1)))
    sync_directory(folder)
    return SplitResult(
        source.set.digest, tuple(str(path) for path in names), source.set.data, source.set.parity,
        max(path.stat().st_size for path in names), len(missing),
    )  # fmt: skip


def _require_room(source: _Source, names: list[Path], missing: list[int]) -> None:
    """Raise HostError when there is no room for one of the missing parts or for all of them."""
    sizes = [source.file_size(number) for number in missing]
    require_room(names[0], max(sizes, default=0))
    if (left := free(names[0])) < sum(sizes):
        raise HostError(
            f"{names[0].parent}: needs {log.size(sum(sizes))}, only {log.size(left)} are free",
            hint="free some space, or choose another folder",
        )


def _scan(path: Path) -> _Source:
    """Read the headers of all members of the bundle."""
    with open_medium(path) as medium:
        archive = TarStream(medium.stream)
        files = read_metadata(archive)
        number: int = tuf_shape.check("targets.json", "targets", files["targets.json"])["signed"][
            "version"
        ]
        lines, head_end, mtime = io.BytesIO(), 0, 0
        while (member := archive.next()) is not None:
            lines.write(f"{archive.position} {member.size} {member.name}\n".encode())
            if lines.tell() > parts.MAX_LAYOUT:
                raise _invalid(path, "too many members for a bundle", "KSB-20")
            archive.skip()
            if member.name == MANIFEST:
                head_end, mtime = archive.position, member.mtime
        if not 0 < head_end <= parts.MAX_HEAD:
            raise _invalid(path, f"no {MANIFEST} at its head", "KSB-19")
        archive.end(exact=medium.exact)
        size = archive.position
        medium.stream.seek(0)
        head = _exactly(medium.stream, head_end)
    layout = lines.getvalue()
    digest = f"sha256:{hashlib.sha256(files['targets.json']).hexdigest()}"
    found = Set(digest, number, size, size, 1, 0, _sha256(head), _sha256(layout))
    if size > parts.MAX_BUNDLE:
        raise UsageError(
            f"{path}: {log.size(size)}, the limit for parts is {log.size(parts.MAX_BUNDLE)}",
            hint="divide the definition into two bundles",
        )
    return _Source(path, found, head, layout, mtime)


def _invalid(path: Path, why: str, code: str) -> DamagedBundleError:
    return DamagedBundleError(
        f"{path}: {why}", hint="verify it first: keystone-install bundle verify", code=code
    )


def _fit(source: _Source, size: int, extra: int) -> _Source:
    """Choose the most chunks per part for which its file has at most `size` bytes."""
    for chunks in range(min(size, tar.MAX_SIZE) // CHUNK, 0, -1):
        part_bytes = chunks * CHUNK
        data = -(-source.set.size // part_bytes)
        found = replace(source.set, part_bytes=part_bytes, data=data, parity=extra)
        if found.total > parity.MAX_PARTS or extra > parity.MAX_PARITY:
            raise UsageError(
                f"{found.total} parts, {extra} of them parity: the limits are "
                f"{parity.MAX_PARTS} and {parity.MAX_PARITY}",
                hint="choose a larger --size or less --parity",
            )
        fitted = replace(source, set=found)
        if max(fitted.file_size(1), fitted.file_size(found.total)) <= size:
            return fitted
    raise UsageError(
        f"--size: {log.size(size)} is too small: each part repeats "
        f"{log.size(len(source.head) + len(source.layout))} of the bundle's head",
        hint="choose a larger --size",
    )


def _is_there(path: Path, source: _Source, number: int) -> bool:
    """Whether this part exists already under its final name.

    Raises RefusedError when the file is something else.
    """
    if not path.exists():
        return False
    try:
        found = parts.open_part(path)
    except DamagedBundleError:
        found = None
    if found is None or found.set != source.set or found.number != number:
        raise RefusedError(
            f"{path}: exists, but is not this part",
            hint="remove it, or choose another --output folder",
        )
    return path.stat().st_size == source.file_size(number)


def _data(source: _Source, file: IO[bytes], number: int, path: Path) -> bytes:
    """Write a data part and return the digests of its chunks."""
    with _Writer(source, number, path) as writer:
        for row in range(source.set.rows(number)):
            writer.add(_chunk(source, file, number, row))
        writer.finish(b"")
        return bytes(writer.chunks)


def _parity(source: _Source, file: IO[bytes], paths: list[Path], every: bytes) -> None:
    """Write all parity parts in one pass over the rows of all data parts."""
    found = source.set
    factors = parity.coefficients(found.data, found.parity)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(_Writer(source, found.data + 1 + index, path))
            for index, path in enumerate(paths)
        ]
        for row in range(found.rows(found.data + 1)):
            sums = [parity.Sum() for _ in writers]
            for part in range(1, found.data + 1):
                chunk = _chunk(source, file, part, row)
                for total, row_factors in zip(sums, factors, strict=True):
                    total.add(row_factors[part - 1], chunk)
            for writer, total in zip(writers, sums, strict=True):
                writer.add(total.result(found.chunk_length(found.data + 1, row)))
        for writer in writers:
            writer.finish(every)


def _chunk(source: _Source, file: IO[bytes], part: int, row: int) -> bytes:
    size = source.set.chunk_length(part, row)
    if not size:
        return b""
    file.seek((part - 1) * source.set.part_bytes + row * CHUNK)
    return _exactly(file, size)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = io.BytesIO()
    while data.tell() < size:
        piece = file.read(size - data.tell())
        if not piece:
            raise DamagedBundleError(
                "the bundle became shorter during the split",
                hint="split it again after its copy is complete",
                code="KSB-30",
            )
        data.write(piece)
    return data.getvalue()


class _Writer:
    """Writes a part under a temporary name: first its data, then its description."""

    def __init__(self, source: _Source, number: int, path: Path) -> None:
        self._source, self._number, self._path = source, number, path
        self._part = path.with_name(f"{path.name}.part")
        self._file = os.fdopen(create(self._part, 0o644), "w+b")
        self.chunks = bytearray()
        chunks = bytes(source.set.rows(number) * parts.DIGEST)
        self._file.seek(source.place(number, chunks, source.no_digests)[-1][0].offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            with suppress(OSError):  # a complete part already has its final name
                self._part.unlink(missing_ok=True)

    def add(self, chunk: bytes) -> None:
        """Write the next chunk of data."""
        self.chunks += hashlib.sha256(chunk).digest()
        self._file.write(chunk)

    def finish(self, every: bytes) -> None:
        """Write the members before the data and the end, sync, and give the part its final name."""
        placed = self._source.place(self._number, bytes(self.chunks), every)
        end = placed[-1][0].end
        length = self._source.set.length(self._number)
        self._file.write(bytes(tar.padded(length) - length + tar.end_bytes(end)))
        self._file.seek(0)
        for place, data in placed:
            self._file.write(place.prefix)
            self._file.write(data)
            if place.member.name != "data":
                self._file.write(bytes(tar.padded(len(data)) - len(data)))
        self._file.flush()
        os.fsync(self._file.fileno())
        settle(self._part, self._path, synced=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
