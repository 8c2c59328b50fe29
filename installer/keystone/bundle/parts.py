"""A bundle cut into parts: each says what it is, and whether it is whole, without the others.

A part is a tar of the bundle's own dialect, so plain tar gets at its bytes too:

    part-<SHA-256 of its bytes>.json   the set: bundle, sizes, number of parts; and which this is
    head        the first bytes of the bundle: its signed metadata and table of contents
    layout      a line a member of the bundle: offset and size of its data in bytes, its name
    chunks      SHA-256 of each 256 KiB of `data`, 32 bytes each
    all-chunks  parity parts only: the same for all data parts, one after the other
    data        the bundle's bytes from (part - 1) x partBytes on; or parity over all data parts

Equal bundles and sizes give equal parts, so parts of two runs go together. The digests show
damage; against malice they stand only as far as blobs lie whole inside a part, which are compared
with the signed list. The joined bundle is verified as any bundle is.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from keystone.bundle import strict_json, tar
from keystone.bundle.manifest import API_VERSION, require_kind
from keystone.bundle.medium import open_medium
from keystone.bundle.parity import MOST, MOST_PARITY
from keystone.bundle.reader import COPY_AGAIN, TarStream
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIND = "BundlePart"
CHUNK = 256 << 10
"""Bytes of data under one digest: how closely damage is located, and repaired."""
DIGEST = 32
MAX_DESCRIPTION = 64 << 10
MAX_HEAD = 48 << 20
START = b"part-"
_NAME = re.compile(r"part-([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Set:
    """What all parts of a bundle agree on. Sizes in bytes.

    digest names the bundle; part_bytes: data of each part, the last one has the rest; head,
    layout: SHA-256 of these members, hex.
    """

    digest: str
    number: int
    size: int
    part_bytes: int
    data: int
    parity: int
    head: str
    layout: str

    @property
    def total(self) -> int:
        """How many parts there are, with parity."""
        return self.data + self.parity

    def length(self, part: int) -> int:
        """Bytes of data in a part; parts count from 1, parity parts follow the data parts."""
        if part > self.data:
            return min(self.part_bytes, self.size)
        return min(self.part_bytes, self.size - (part - 1) * self.part_bytes)

    def rows(self, part: int) -> int:
        """How many chunks a part has."""
        return -(-self.length(part) // CHUNK)

    @property
    def all_rows(self) -> int:
        """How many chunks all data parts have together."""
        return (self.data - 1) * self.rows(1) + self.rows(self.data)

    def chunk_length(self, part: int, row: int) -> int:
        """Bytes of a chunk; 0 behind the part's end."""
        return max(min(CHUNK, self.length(part) - row * CHUNK), 0)


@dataclass(frozen=True)
class Part:
    """A part on a medium; its description was checked, its data not yet.

    chunks: the digests of its own chunks; all_chunks: of all data parts, parity parts only.
    """

    path: Path
    set: Set
    number: int
    chunks: bytes
    all_chunks: bytes
    head: bytes
    layout_text: bytes
    offset: int

    @property
    def layout(self) -> tuple[tuple[int, int, str], ...]:
        """Every member of the bundle: offset and size of its data, its name."""
        return _layout(self.layout_text)

    def beside(self, other: Part) -> Part:
        """The same part. With another one of its set it has what they share in memory but once."""
        if self.set != other.set:
            return self
        return replace(self, head=other.head, layout_text=other.layout_text)

    def read(self, row: int) -> bytes | None:
        """A chunk; None when it is damaged or cannot be read."""
        size = self.set.chunk_length(self.number, row)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + row * CHUNK)
                data = b""
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
        except OSError:
            return None  # the caller asks other copies or parity, and says what is missing
        return data if is_chunk(data, self.chunks, row) else None


def is_chunk(data: bytes, digests: bytes, row: int) -> bool:
    """Whether these bytes are the chunk that the list of digests has at `row`."""
    return hashlib.sha256(data).digest() == digests[row * DIGEST : (row + 1) * DIGEST]


def describe(found: Set, number: int, chunks: bytes, every: bytes) -> tuple[str, bytes]:
    """Name and bytes of a part's description. every: what `all-chunks` holds, if it is there."""
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "set": {
            "bundle": {"digest": found.digest, "number": found.number, "size": found.size},
            "partBytes": found.part_bytes,
            "data": found.data,
            "parity": found.parity,
            "head": found.head,
            "layout": found.layout,
        },
        "part": number,
        "chunks": hashlib.sha256(chunks).hexdigest(),
        "allChunks": hashlib.sha256(every).hexdigest(),
    }
    data = (json.dumps(document, sort_keys=True) + "\n").encode()
    return f"part-{hashlib.sha256(data).hexdigest()}.json", data


def is_part(path: Path) -> bool:
    """Whether a file starts as a part does."""
    try:
        with open_medium(path) as medium:
            # The first member's header ends where its aligned data starts.
            return b"".join(medium.chunks(tar.ALIGN - tar.BLOCK, len(START))) == START
    except DamagedBundleError:
        return False  # whoever opens it next says why


def open_part(path: Path) -> Part:
    """Read and check everything of a part but its data. Raises DamagedBundleError."""
    with open_medium(path) as medium:
        archive = TarStream(medium.stream)
        try:
            return _read(path, archive)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedBundleError(
                f"{path}: its description is damaged ({strict_json.brief(error)})",
                hint=COPY_AGAIN,
                code="KSB-23",
            ) from error
        except DamagedBundleError as error:
            raise DamagedBundleError(
                f"{path}: {error.message}", hint=error.hint, code=error.code
            ) from error


def _read(path: Path, archive: TarStream) -> Part:
    member = archive.next()
    match = _NAME.fullmatch(member.name) if member else None
    if member is None or match is None:
        raise ValueError("it is not a part of a bundle")
    text = _bytes(archive, member, MAX_DESCRIPTION, match[1])
    document = strict_json.loads(text)
    require_kind(document, KIND)
    found, number = _set(document["set"]), document["part"]
    if type(number) is not int or not 1 <= number <= found.total:
        raise ValueError("a number that the set does not have")
    head = _member(archive, "head", MAX_HEAD, found.head)
    layout = _member(archive, "layout", MAX_HEAD, found.layout)
    chunks = _member(archive, "chunks", MAX_HEAD, document["chunks"])
    has_all = number > found.data
    every = _member(archive, "all-chunks", MAX_HEAD, document["allChunks"]) if has_all else b""
    data = archive.next()
    if data is None or data.name != "data" or data.size != found.length(number):
        raise ValueError("no data of the right size")
    if len(chunks) != found.rows(number) * DIGEST or len(every) != (
        found.all_rows * DIGEST if has_all else 0
    ):
        raise ValueError("too few digests")
    return Part(path, found, number, chunks, every, head, layout, archive.position)


def _set(value: dict[str, Any]) -> Set:
    bundle = value["bundle"]
    found = Set(
        digest=str(bundle["digest"]),
        number=bundle["number"],
        size=bundle["size"],
        part_bytes=value["partBytes"],
        data=value["data"],
        parity=value["parity"],
        head=str(value["head"]),
        layout=str(value["layout"]),
    )
    numbers = (found.number, found.size, found.part_bytes, found.data, found.parity)
    if any(type(one) is not int or one < 0 for one in numbers):
        raise ValueError("what should be a number is none")
    if found.total > MOST or found.parity > MOST_PARITY:
        raise ValueError("more parts than there can be")
    if found.part_bytes < 1 or found.data != -(-found.size // found.part_bytes):
        raise ValueError("numbers that do not fit together")
    return found


def _member(archive: TarStream, name: str, limit: int, digest: str) -> bytes:
    member = archive.next()
    if member is None or member.name != name:
        raise ValueError(f"no {name} where it should be")
    return _bytes(archive, member, limit, digest)


def _bytes(archive: TarStream, member: tar.Member, limit: int, digest: str) -> bytes:
    if member.size > limit:
        raise ValueError(f"{member.name} is larger than any honest one")
    data = b"".join(bytes(chunk) for chunk in archive.chunks())
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{member.name} is damaged")
    return data


def parse_layout(text: bytes) -> Iterator[tuple[int, int, str]]:
    """The lines of `layout`. Raises ValueError."""
    for line in text.decode("ascii").splitlines():
        offset, size, name = line.split(" ")
        yield int(offset), int(size), name


@lru_cache(maxsize=1)
def _layout(text: bytes) -> tuple[tuple[int, int, str], ...]:
    return tuple(parse_layout(text))


def touching(
    layout: tuple[tuple[int, int, str], ...], start: int, end: int
) -> Iterator[tuple[int, int, str]]:
    """The members of which some data lies between two offsets of the bundle."""
    for offset, size, name in layout:
        if offset < end and offset + size > start:
            yield offset, size, name
