"""Archives read as streams, for what they name and hold; nothing is ever unpacked.

Layers and packages come from strangers. Bytes flow past once, in pieces of bounded size, and no
name in an archive becomes a path here. tarfile is not used: it reads headers of any length into
memory, and has a history (docs: reliability, "Never call tarfile.extractall").
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.packager.sbom.model import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
PIECE = 1 << 18
"""Bytes that one step of decompression may give."""
MAX_MEMBERS = 2_000_000
MAX_HEADER = 1 << 20
"""Bytes of a pax header or a long name."""
MAX_RATIO = 250
ROOM = 256 << 20
"""An archive may expand to ROOM + MAX_RATIO times its size; real layers reach about 100."""
LZMA_MEMORY = 80 << 20
"""Bytes; `xz -9` needs 65 MiB to decompress."""
ZSTD_WINDOW = 1 << 26
GZIP, XZ, BZIP2, ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"
AR = b"!<arch>\n"
REGULAR = (b"0", b"\0", b"7")
NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
BASE_256 = 0x80


class Reader:
    """Pieces as one stream. `position` counts bytes from its start."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self.position = 0

    def some(self, limit: int = PIECE) -> memoryview:
        """At most `limit` bytes; empty only at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return self._rest
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:limit], self._rest[limit:]
        self.position += len(part)
        return part

    def read(self, count: int = PIECE) -> bytes:
        """As a file object's: up to `count` bytes."""
        return bytes(self.some(count if count > 0 else PIECE))

    def exactly(self, count: int) -> bytes:
        """That many bytes. Raises UnreadableError when the stream ends before."""
        return b"".join(self.blocks(count))

    def blocks(self, count: int) -> Iterator[memoryview]:
        """That many bytes in pieces. Raises UnreadableError when the stream ends before."""
        while count:
            part = self.some(min(count, PIECE))
            if not part:
                raise UnreadableError(f"ends early, at byte {self.position}")
            count -= len(part)
            yield part

    def peek(self, count: int) -> bytes:
        """The next bytes, which stay where they are; fewer at the end."""
        parts: list[memoryview] = []
        have = 0
        while have < count and (part := self.some()):
            parts.append(part)
            have += len(part)
        self.give_back(b"".join(parts))
        return bytes(self._rest[:count])

    def give_back(self, data: bytes) -> None:
        """Put bytes that were read too many back in front."""
        self._rest = memoryview(data + bytes(self._rest))
        self.position -= len(data)


def expanded(source: Reader) -> Reader:
    """The stream decompressed as often as it is compressed (once); itself where it is not."""
    start = source.peek(6)
    if start.startswith(GZIP):
        return Reader(_capped(_gunzip(source), source))
    if start.startswith(XZ):
        return Reader(_capped(_fed(lzma.LZMADecompressor(memlimit=LZMA_MEMORY), source), source))
    if start.startswith(BZIP2):
        return Reader(_capped(_fed(bz2.BZ2Decompressor(), source), source))
    if start.startswith(ZSTD):
        return Reader(_capped(_unzstd(source), source))
    return source


def _capped(pieces: Iterator[bytes], source: Reader) -> Iterator[bytes]:
    given = 0
    try:
        for piece in pieces:
            given += len(piece)
            if given > ROOM + MAX_RATIO * source.position:
                raise UnreadableError(f"expands to more than {MAX_RATIO} times its size")
            yield piece
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise UnreadableError(f"cannot be decompressed: {error}") from error


def _gunzip(source: Reader) -> Iterator[bytes]:
    while (left := source.read()) != b"":
        engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not engine.eof:
            if not left and not (left := source.read()):
                raise UnreadableError("ends early inside gzip data")
            if piece := engine.decompress(left, PIECE):
                yield piece
            left = engine.unconsumed_tail
        source.give_back(engine.unused_data)
        if not source.peek(2).startswith(GZIP):
            return


def _fed(engine: bz2.BZ2Decompressor | lzma.LZMADecompressor, source: Reader) -> Iterator[bytes]:
    while not engine.eof:
        data = source.read() if engine.needs_input else b""
        if engine.needs_input and not data:
            raise UnreadableError("ends early inside compressed data")
        if piece := engine.decompress(data, PIECE):
            yield piece


def _unzstd(source: Reader) -> Iterator[bytes]:
    import zstandard  # noqa: PLC0415 the packager's machine has it

    engine = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    try:
        with engine.stream_reader(source, read_across_frames=True) as file:  # type: ignore[arg-type]
            while piece := file.read(PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise UnreadableError(f"cannot be decompressed: {error}") from error


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: its name as written, its size in bytes."""

    name: str
    size: int
    data: Iterator[memoryview]


def ar_members(source: Reader) -> Iterator[Member]:
    """Members of an ar archive as dpkg writes it (deb(5)); data not taken is passed."""
    if source.exactly(len(AR)) != AR:
        raise UnreadableError("not an ar archive")
    while head := source.peek(60):
        source.exactly(len(head))
        try:
            name, size = head[:16].decode("ascii").strip().rstrip("/"), int(head[48:58])
        except ValueError as error:
            raise UnreadableError(f"not an ar member before byte {source.position}") from error
        if head[58:60] != b"`\n" or size < 0:
            raise UnreadableError(f"not an ar member before byte {source.position}")
        data = source.blocks(size)
        yield Member(name, size, data)
        _drain(data)
        if size % 2:
            source.exactly(1)


def is_tar(start: bytes) -> bool:
    """Whether these 512 bytes are a tar header: by its checksum, as old tars have no magic."""
    return len(start) == BLOCK and any(start) and _checksum_fits(start)


def tar_members(source: Reader) -> Iterator[Member]:
    """Regular files of a tar (POSIX ustar and pax, GNU long names); data not taken is passed."""
    long_name, pax, count = "", dict[str, str](), 0
    while any(head := source.exactly(BLOCK)):
        count += 1
        if not _checksum_fits(head) or count > MAX_MEMBERS:
            what = "not a tar header" if count <= MAX_MEMBERS else f"more than {MAX_MEMBERS} files"
            raise UnreadableError(f"{what} before byte {source.position}")
        kind, size = head[156:157], _number(head[124:136])
        if kind in {b"L", b"x"}:
            text = _text(source, size)
            long_name = text.rstrip("\0") if kind == b"L" else long_name
            pax = _pax(text) if kind == b"x" else pax
            continue
        size = _decimal(pax["size"]) if "size" in pax else size
        name = pax.get("path") or long_name or _name(head)
        long_name, pax = "", {}
        if kind in NO_DATA:
            continue
        data = source.blocks(size)
        if kind in REGULAR:
            yield Member(name, size, data)
        _drain(data)
        _drain(source.blocks(-size % BLOCK))


def _drain(data: Iterator[memoryview]) -> None:
    for _ in data:
        pass


def _checksum_fits(head: bytes) -> bool:
    try:
        wanted = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return sum(head[:148]) + 256 + sum(head[156:]) == wanted


def _number(field: bytes) -> int:
    """Octal, or GNU's base-256 for what is too large."""
    if field[0] & BASE_256:
        # A negative size has all bits set, and is outside all reason below.
        return _sane(int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big"))
    try:
        return _sane(int(field.strip(b" \0") or b"0", 8))
    except ValueError as error:
        raise UnreadableError("a size that is no number") from error


def _decimal(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(1 << 63)):
        raise UnreadableError("a size that is no number")
    return _sane(int(text))


def _sane(value: int) -> int:
    if not 0 <= value < 1 << 62:
        raise UnreadableError("a size outside all reason")
    return value


def _text(source: Reader, size: int) -> str:
    if size > MAX_HEADER:
        raise UnreadableError(f"a header of {size} bytes")
    data = source.exactly(size)
    _drain(source.blocks(-size % BLOCK))
    return data.decode(errors="replace")


def _name(head: bytes) -> str:
    name = head[:100].split(b"\0")[0]
    prefix = head[345:500].split(b"\0")[0] if head[257:262] == b"ustar" else b""
    # GNU tars use the prefix field for other things.
    whole = prefix + b"/" + name if prefix and head[263:265] == b"00" else name
    return whole.decode(errors="replace")


def _pax(text: str) -> dict[str, str]:
    """Records of length, key and value (POSIX pax); only what is asked for is kept."""
    found = {}
    for line in text.split("\n"):
        key, _, value = line.partition(" ")[2].partition("=")
        if key in {"path", "size"}:
            found[key] = value
    return found
