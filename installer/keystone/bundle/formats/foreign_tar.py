"""Read the members of third-party tar archives. Nothing is ever unpacked to disk.

Reads the formats that Helm, dpkg-deb, docker and git write: USTAR, GNU long names, pax headers.
Memory, output and the number of members are limited, and no name is used as a path. Python's
tarfile reads headers of any length into memory and expands sparse members to any size.

`entries` is strict, for verification: it refuses what two programs could read differently.
`members` with limits that are not strict accepts what programs write, for inspection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.bundle.formats.pieces import PIECE, CutError, Reader, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
MAX_EXTENDED = 1 << 16
"""Maximum bytes of a pax header or of a long name."""
TYPES = {b"0": "file", b"\0": "file", b"5": "directory", b"1": "hard link", b"2": "symbolic link"}
NO_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Types without data, whatever their size field says (POSIX, ustar Interchange Format)."""
SPARSE = b"S"
"""A sparse file of GNU tar; pax uses a regular file and records of its holes."""
EXTENDING = frozenset({b"x", b"g", b"L"})
LINKS = frozenset({"hard link", "symbolic link"})
BASE_256 = 0x80
MAX_DIGITS = len(str(1 << 63))


@dataclass(frozen=True)
class Limits:
    """Limits. total: bytes of all output; member: bytes of one member; count: members.

    extended: bytes of a pax header or long name. strict: accept only octal sizes, and no header
    that changes the size or link of the next one.
    """

    total: int
    member: int
    count: int
    extended: int = MAX_EXTENDED
    strict: bool = True


ANY = Limits(total=1 << 62, member=1 << 62, count=2_000_000, extended=1 << 20, strict=False)
"""Limits for inspecting a third-party file while it is read once."""


@dataclass(frozen=True)
class Entry:
    """One member. kind: file, directory, symbolic link, hard link, or "type <flag>"."""

    name: str
    kind: str
    size: int
    mode: int
    content: bytes = b""


@dataclass(frozen=True)
class Member:
    """One member of a stream. kind: as in Entry, or "sparse": a file with holes.

    link: target of a link, as written. offset: of the data, in bytes from the start of the archive.
    data: the stored bytes (without holes), to be read before the next member.
    """

    name: str
    kind: str
    size: int
    link: str
    offset: int
    data: Iterator[memoryview]
    head: bytes

    @property
    def mode(self) -> int:
        """Mode bits. Raises UnreadableError for an invalid number, as uid and gid do."""
        return _number(self.head[100:108])

    @property
    def uid(self) -> int:
        """User id of the owner."""
        return _large(self.head[108:116])

    @property
    def gid(self) -> int:
        """Group id of the owner."""
        return _large(self.head[116:124])


@dataclass
class _Extended:
    """Values that extended headers set for the next member; "" or None if not set."""

    name: str = ""
    link: str = ""
    size: int | None = None
    sparse: bool = False


def plain(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """Yield uncompressed input. read: returns bytes for offset and count; size: in bytes."""
    for offset in range(0, size, PIECE):
        yield read(offset, min(PIECE, size - offset))


def entries(parts: Iterator[bytes], limits: Limits, *, keep: str | None = "") -> Iterator[Entry]:
    """Yield members in order. keep: the member whose content is returned; None for all members.

    Raises ValueError if the archive is invalid or exceeds `limits`, EOFError if it is incomplete.
    """
    source = Reader(_counted(parts, limits.total))
    try:
        for member in members(source, limits):
            wanted = keep is None or member.name.removeprefix("./") == keep
            content = b"".join(member.data) if wanted and member.kind == "file" else b""
            yield Entry(member.name, member.kind, member.size, member.mode, content)
    except CutError as error:
        raise EOFError("the archive is incomplete") from error
    while rest := source.some():  # only zeros may follow the end of the archive
        if any(rest):
            raise UnreadableError("bytes after the end of the archive")


def members(source: Reader, limits: Limits = ANY) -> Iterator[Member]:
    """Yield members in order, up to the end of the archive; skip data that is not read.

    Raises UnreadableError if the archive is invalid or exceeds `limits`.
    """
    found, extended = 0, _Extended()
    while any(head := source.exactly(BLOCK)):
        _require_checksum(head)
        flag, size = head[156:157], _size(head, limits)
        if flag in EXTENDING or (flag == b"K" and not limits.strict):
            body = source.exactly(_padded(_bounded(size, limits.extended)))[:size]
            _extend(extended, flag, body, limits)
            continue
        found += 1
        if found > limits.count:
            raise UnreadableError(f"more than {limits.count} members")
        if flag == SPARSE and not limits.strict:
            _pass_holes(head, source)
        member = _member(head, extended, source, limits)
        end = source.position + _padded(member.size if _has_data(flag, limits) else 0)
        yield member
        source.pass_by(end - source.position)
        extended = _Extended()


def copy_out(
    source: Reader, wanted: Callable[[str], bool], write: Callable[[memoryview], object]
) -> bool:
    """Write the one regular file with a wanted name (without "./"); return False if it is missing.

    Raises UnreadableError if there are two, or if the archive is invalid.
    """
    found = False
    for member in members(source):
        if member.kind == "file" and wanted(member.name.removeprefix("./")):
            if found:
                raise UnreadableError(f"{member.name!r:.90} is a duplicate")
            found = True
            for piece in member.data:
                write(piece)
    return found


def is_tar(start: bytes) -> bool:
    """Return whether these 512 bytes are a tar header, by its checksum: old tars have no magic."""
    try:
        if len(start) == BLOCK and any(start):
            _require_checksum(start)
            return True
    except UnreadableError:
        pass
    return False


def _counted(parts: Iterator[bytes], left: int) -> Iterator[bytes]:
    for part in parts:
        left -= len(part)
        if left < 0:
            raise UnreadableError("the archive is larger than the limit")
        yield part


def _member(head: bytes, extended: _Extended, source: Reader, limits: Limits) -> Member:
    flag = head[156:157]
    size = _size(head, limits) if extended.size is None else extended.size
    kind = TYPES.get(flag, f"type {flag!r}")
    name = extended.name or _name(head, limits)
    if not limits.strict:
        kind = "file" if flag == b"7" else kind
        kind = "directory" if flag == b"\0" and name.endswith("/") else kind
        sparse = flag == SPARSE or (kind == "file" and extended.sparse)
        kind = "sparse" if sparse else kind
    has_data = _has_data(flag, limits)
    data = source.blocks(_bounded(size, limits.member) if has_data else 0)
    link = (extended.link or _text(_ended(head[157:257]), limits)) if kind in LINKS else ""
    return Member(name, kind, size, link, source.position, data, head)


def _pass_holes(head: bytes, source: Reader) -> None:
    """Skip the blocks that continue the list of holes (GNU tar, Basic Tar Format)."""
    more = head[482]
    while more:
        more = source.exactly(BLOCK)[504]


def _has_data(flag: bytes, limits: Limits) -> bool:
    return TYPES.get(flag) == "file" if limits.strict else flag not in NO_DATA


def _extend(extended: _Extended, flag: bytes, body: bytes, limits: Limits) -> None:
    """Read the values that a GNU or pax header sets for the next member."""
    if flag == b"L":
        extended.name = _text(body.rstrip(b"\0"), limits) or extended.name
    elif flag == b"K":
        extended.link = _text(body.rstrip(b"\0"), limits)
    else:
        for key, value in _records(body):
            if limits.strict:
                _require_harmless(flag, key)
            if flag == b"x":  # values of a global header (g) are not needed here
                _record(extended, key, value, limits)


def _record(extended: _Extended, key: bytes, value: bytes, limits: Limits) -> None:
    if key == b"path":
        extended.name = _text(value, limits) or extended.name
    elif key == b"linkpath":
        extended.link = _text(value, limits)
    elif key == b"size":
        extended.size = _decimal(value)
    elif key.startswith(b"GNU.sparse."):
        extended.sparse = True


def _require_harmless(flag: bytes, key: bytes) -> None:
    if key in {b"size", b"linkpath"} or (key == b"path" and flag == b"g"):
        raise UnreadableError(f"a pax header changes {key.decode()}")
    if key.startswith(b"GNU.sparse."):
        raise UnreadableError("a sparse member, which can unpack to any size")


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a pax header (POSIX, pax Extended Header)."""
    while body:
        length, _, _ = body.partition(b" ")
        record = body[: int(length)] if length.isdigit() and len(length) < MAX_DIGITS else b""
        if not record.endswith(b"\n") or len(record) != int(length):
            raise UnreadableError("a pax record has a wrong length")
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        yield key, value
        body = body[len(record) :]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _size(head: bytes, limits: Limits) -> int:
    return _number(head[124:136]) if limits.strict else _large(head[124:136])


def _number(text: bytes) -> int:
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        raise UnreadableError(f"not an octal number: {text!r}") from None


def _large(field: bytes) -> int:
    """Parse an octal number, or GNU's base-256 for large ones; negative ones exceed every limit."""
    if field[0] & BASE_256:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _number(field)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > MAX_DIGITS:
        raise UnreadableError("a size is not a number")
    return int(text)


def _bounded(size: int, most: int) -> int:
    if not 0 <= size <= most:
        raise UnreadableError(f"a member has {size} bytes; the limit is {most}")
    return size


def _require_checksum(block: bytes) -> None:
    if sum(block[:148] + b" " * 8 + block[156:]) != _number(block[148:156]):
        raise UnreadableError("a header has a wrong checksum")


def _ended(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(block: bytes, limits: Limits) -> str:
    name = _ended(block[:100])
    prefix = _ended(block[345:500]) if block.startswith(b"ustar\0", 257) else b""
    return _text(prefix + b"/" + name if prefix else name, limits)


def _text(data: bytes, limits: Limits) -> str:
    return data.decode("utf-8", "strict" if limits.strict else "replace")
