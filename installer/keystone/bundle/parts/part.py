"""The format of a part of a bundle: each part describes itself and can be checked alone.

A part is a tar of the bundle's own dialect, so plain tar can extract its members:

    part-<SHA-256 of its bytes>.json   the set (bundle, sizes, number of parts); this part's number
    head        the first bytes of the bundle: its signed metadata and table of contents
    layout      one line per member of the bundle: offset and size of its data in bytes, its name
    chunks      SHA-256 of each 256 KiB of `data`, 32 bytes each
    all-chunks  only in parity parts: the same for all data parts, concatenated
    data        the bundle's bytes from (part - 1) x partBytes on; or parity over all data parts

Equal bundles and sizes give equal parts, so parts of two runs can be combined. The digests detect
damage. They detect manipulation only for blobs that are completely inside one part, because these
are compared with the signed list. The joined bundle is verified like any bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from keystone.bundle.format import COPY_AGAIN
from keystone.bundle.formats import strict_json, tar
from keystone.bundle.manifest import API_VERSION, MAX_NUMBER, require_kind
from keystone.bundle.model import Digest
from keystone.bundle.parts.parity import MAX_PARITY, MAX_PARTS
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.read.stream import TarStream
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KIND = "BundlePart"
CHUNK = 256 << 10
"""Bytes of data per digest: the unit in which damage is located and repaired."""
DIGEST = 32
MAX_DESCRIPTION = 64 << 10
MAX_HEAD = 32 << 20
"""Maximum bytes of a head: all roots, lists and contents that a reader accepts, and padding."""
MAX_LAYOUT = 4_000_000
"""Maximum bytes of a layout: one line for each possible member."""
MAX_BUNDLE = 128 << 30
"""Maximum bytes of a bundle to split; the digests of its chunks then take 16 MiB."""
START = b"part-"
Layout = tuple[tuple[int, int, str], ...]
"""Every member of a bundle: offset and size of its data in bytes, and its name."""
Range = tuple[int, int]
"""A byte range of a bundle: offset of its first byte, and offset after its last byte."""
_NUMBER = "0|[1-9][0-9]{0,12}"
_LINE = re.compile(rf"({_NUMBER}) ({_NUMBER}) ({tar.NAME.pattern})")
_NAME = re.compile(r"part-([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Set:
    """The description that all parts of a bundle share. Sizes are in bytes.

    digest: names the bundle. part_bytes: data of each part; the last data part has the rest. data,
    parity: numbers of parts. head, layout: SHA-256 of these members, in hex.
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
        """Number of parts, including parity parts."""
        return self.data + self.parity

    def length(self, part: int) -> int:
        """Bytes of data in a part. Parts count from 1; parity parts follow the data parts."""
        if part > self.data:
            return min(self.part_bytes, self.size)
        return min(self.part_bytes, self.size - (part - 1) * self.part_bytes)

    def rows(self, part: int) -> int:
        """Number of chunks in a part."""
        return -(-self.length(part) // CHUNK)

    @property
    def all_rows(self) -> int:
        """Number of chunks in all data parts together."""
        return (self.data - 1) * self.rows(1) + self.rows(self.data)

    def place(self, part: int, row: int) -> Range:
        """The range of the bundle that a chunk of a data part covers."""
        start = (part - 1) * self.part_bytes + row * CHUNK
        return start, start + self.chunk_length(part, row)

    def chunk_length(self, part: int, row: int) -> int:
        """Bytes of a chunk; 0 after the end of the part."""
        return max(min(CHUNK, self.length(part) - row * CHUNK), 0)


@dataclass(frozen=True)
class Part:
    """A part on a medium. Its description is checked, its data is not.

    chunks: digests of its own chunks. all_chunks: digests of the chunks of all data parts; empty in
    data parts. head, offset: offsets in the file at which the head's and the part's data start, in
    bytes.
    """

    path: Path
    set: Set
    number: int
    chunks: bytes
    all_chunks: bytes
    layout_text: bytes
    head: int
    offset: int

    @property
    def layout(self) -> Layout:
        """Every member of the bundle."""
        return parse_layout(self.layout_text)

    @contextmanager
    def open_head(self) -> Iterator[TarStream]:
        """The first members of the bundle; their digest was checked when the part was opened."""
        with open_medium(self.path) as medium:
            medium.stream.seek(self.head)
            yield TarStream(medium.stream)

    def ends(self) -> bool:
        """Whether the file ends correctly: exactly the required zeros, and nothing after them."""
        data = self.set.length(self.number)
        end = self.offset + tar.padded(data)
        rest = self.offset + data, end + tar.end_bytes(end)
        with open_medium(self.path) as medium:
            tail = b"".join(medium.chunks(rest[0], rest[1] - rest[0] + 1))
        return tail == bytes(rest[1] - rest[0])

    def read(self, row: int) -> bytes | None:
        """Read a chunk. Returns None when it is damaged or cannot be read."""
        size = self.set.chunk_length(self.number, row)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + row * CHUNK)
                data = b""
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
        except OSError:
            return None  # the caller tries other copies or parity, and reports missing chunks
        return data if is_chunk(data, self.chunks, row) else None


def is_chunk(data: bytes, digests: bytes, row: int) -> bool:
    """Whether the digest of `data` equals the digest at `row`."""
    return hashlib.sha256(data).digest() == digests[row * DIGEST : (row + 1) * DIGEST]


def describe(found: Set, number: int, chunks: bytes, every: bytes) -> tuple[str, bytes]:
    """Name and bytes of a part's description. every: content of `all-chunks`, or empty."""
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
    """Whether a file starts like a part."""
    try:
        with open_medium(path) as medium:
            # The first member's header ends where its aligned data starts.
            return b"".join(medium.chunks(tar.ALIGN - tar.BLOCK, len(START))) == START
    except DamagedBundleError:
        return False  # open_part reports the reason


def open_part(path: Path, shared: dict[str, bytes] | None = None) -> Part:
    """Read and check a part, except for its data. Raises DamagedBundleError.

    shared: content that several parts repeat, by its digest, to keep it in memory only once.
    """
    with open_medium(path) as medium:
        archive = TarStream(medium.stream)
        try:
            return _read(path, archive, {} if shared is None else shared)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedBundleError(
                f"{path}: the description of the part is damaged ({strict_json.brief(error)})",
                hint=COPY_AGAIN,
                code="KSB-23",
            ) from error


def _read(path: Path, archive: TarStream, shared: dict[str, bytes]) -> Part:
    member = archive.next()
    match = _NAME.fullmatch(member.name) if member else None
    if member is None or match is None:
        raise ValueError("not a part of a bundle")
    text = _bytes(archive, member, MAX_DESCRIPTION, match[1])
    document = strict_json.loads(text)
    require_kind(document, KIND)
    found, number = _set(document["set"]), document["part"]
    if type(number) is not int or not 1 <= number <= found.total:
        raise ValueError("the part's number is not in the set")
    head = _pass_head(archive, found.head)
    layout = _member(archive, "layout", MAX_LAYOUT, found.layout)
    layout = shared.setdefault(found.layout, layout)
    if any(offset + size > found.size for offset, size, _ in parse_layout(layout)[-1:]):
        raise ValueError("the layout is longer than the bundle")
    size = found.rows(number) * DIGEST
    chunks = _member(archive, "chunks", size, document["chunks"])
    every = b""
    if number > found.data:
        every = _member(archive, "all-chunks", found.all_rows * DIGEST, document["allChunks"])
        every = shared.setdefault(document["allChunks"], every)
    elif document["allChunks"] != hashlib.sha256(b"").hexdigest():
        raise ValueError("a data part must not have all-chunks")
    if len(chunks) != size or (number > found.data and len(every) != found.all_rows * DIGEST):
        raise ValueError("too few digests")
    data = archive.next()
    if data is None or data.name != "data" or data.size != found.length(number):
        raise ValueError("data is missing or has a wrong size")
    return Part(path, found, number, chunks, every, layout, head, archive.position)


def _set(value: dict[str, Any]) -> Set:
    bundle = value["bundle"]
    found = Set(
        digest=str(Digest.parse(bundle["digest"])),
        number=bundle["number"],
        size=bundle["size"],
        part_bytes=value["partBytes"],
        data=value["data"],
        parity=value["parity"],
        head=Digest(value["head"]).hex,
        layout=Digest(value["layout"]).hex,
    )
    numbers = (found.number, found.size, found.part_bytes, found.data, found.parity)
    if any(type(one) is not int or one < 0 for one in numbers):
        raise ValueError("a number is negative or not an integer")
    if found.total > MAX_PARTS or found.parity > MAX_PARITY:
        raise ValueError(f"more than {MAX_PARTS} parts or {MAX_PARITY} parity parts")
    if found.size > MAX_BUNDLE or found.part_bytes > tar.MAX_SIZE or found.number > MAX_NUMBER:
        raise ValueError("a size or number exceeds the limit")
    if found.part_bytes < 1 or found.part_bytes % CHUNK or not found.size:
        raise ValueError("the size of a part is not a multiple of the chunk size")
    if found.data != -(-found.size // found.part_bytes):
        raise ValueError("the number of parts does not match their sizes")
    return found


def _member(archive: TarStream, name: str, limit: int, digest: str) -> bytes:
    member = archive.next()
    if member is None or member.name != name:
        raise ValueError(f"{name} is missing")
    return _bytes(archive, member, limit, digest)


def _pass_head(archive: TarStream, digest: str) -> int:
    """Check the head without keeping it in memory. Returns the offset of its data."""
    member = archive.next()
    if member is None or member.name != "head" or member.size > MAX_HEAD:
        raise ValueError("head is missing or exceeds the size limit")
    start, seen = archive.position, hashlib.sha256()
    for chunk in archive.chunks():
        seen.update(chunk)
    if seen.hexdigest() != digest:
        raise ValueError("head is damaged")
    return start


def _bytes(archive: TarStream, member: tar.Member, limit: int, digest: str) -> bytes:
    if member.size > limit:
        raise ValueError(f"{member.name} has {member.size} bytes, the limit is {limit}")
    data = b"".join(bytes(chunk) for chunk in archive.chunks())
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{member.name} is damaged")
    return data


@lru_cache(maxsize=1)
def parse_layout(text: bytes) -> Layout:
    """Parse `layout`. Raises ValueError for invalid lines, wrong order or overlapping members.

    All parts of a set repeat the same layout, so the last result is cached.
    """
    found = []
    after = 0
    for line in text.decode("ascii").removesuffix("\n").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None or int(match[1]) < after or len(match[3]) > tar.NAME_BYTES:
            raise ValueError(f"{line!r:.90} is not valid in a layout")
        found.append((int(match[1]), int(match[2]), match[3]))
        after = int(match[1]) + int(match[2])
    return tuple(found)


def touching(layout: Layout, start: int, end: int) -> Iterator[str]:
    """The names of the members with data between two offsets of the bundle."""
    first = bisect_right(layout, start, key=lambda member: member[0] + member[1])
    for offset, size, name in layout[first:]:
        if offset >= end:
            break
        if size:
            yield name


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Merge ranges that touch or overlap."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
