"""Remove the Huffman coding from a gzip file (RFC 1952, RFC 1951), and restore it bit for bit.

A gzip file cannot be recreated from its decompressed content: compressors, and releases of one
compressor, make different choices. So this module keeps the choices (where blocks begin, their
codes, literals and copies) and removes only their Huffman coding. Equal content then has equal
bytes at any position, so a patch between two unfolded files is small. Restoring the file only
encodes the choices again and needs no compressor.

An unfolded file is a list of records: type (u8), length (u32 little-endian), payload.

    R   unchanged bytes at a byte boundary: headers, trailers, stored data
    B   unchanged bits: their number (u16), then the bits, the first one lowest
    D   as B; the bits end with code lengths that apply from here on (RFC 1951, 3.2.7)
    F   no payload: the fixed codes apply from here on
    T   tokens: first byte 1 when the block ends after them; then for each copy the number of
        literals before it (u8), its length - 3 (u8), its distance (u16; 0: no copy), the literals
"""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

from keystone.bundle.formats import deflate_codes as rfc

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\x1f\x8b\x08"
_RECORD = struct.Struct("<cI")
_TOKEN = struct.Struct("<BBH")
_READ = 32
_ENOUGH = 48
"""Maximum bits of a token: two codes of 15 bits and 18 extra bits."""
_TOKENS = 256 << 10
"""Bytes of tokens after which a record ends."""
_END = 256
_STORED, _FIXED, _OWN = 0, 1, 2
_MAX_RUN = 255
_MAX_RECORD = _TOKENS + 1024
"""Maximum bytes of a record: it includes the token that exceeds _TOKENS."""
_MAX_NAME = 64 << 10
"""Maximum bytes of the name and of the comment in a gzip header."""
_FULL_RUN = _TOKEN.pack(_MAX_RUN, 0, 0)
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_FLAG_CRC, _FLAG_EXTRA, _FLAG_NAME, _FLAG_COMMENT = 2, 4, 8, 16


class _Bits:
    """Bits of a stream, lowest first. `taken` returns the bits that `take` has read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read
        self.buffer = self.count = 0
        self._log = self._logged = 0

    def need(self, count: int) -> None:
        """Buffer at least `count` bits. Raises ValueError at the end of the stream."""
        while self.count < count:
            data = self.read(_READ)
            if not data:
                raise ValueError("the gzip file is incomplete")
            self.buffer |= int.from_bytes(data, "little") << self.count
            self.count += 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        self.need(count)
        value = self.buffer & ((1 << count) - 1)
        self.buffer >>= count
        self.count -= count
        self._log |= value << self._logged
        self._logged += count
        return value

    def taken(self) -> bytes:
        """All bits since the last call, as the payload of a record."""
        data = self._log.to_bytes(-(-self._logged // 8), "little")
        count, self._log, self._logged = self._logged, 0, 0
        return struct.pack("<H", count) + data

    def symbol(self, table: rfc.Table) -> int:
        """Decode the next symbol."""
        while self.count < len(table).bit_length() and (data := self.read(_READ)):
            self.buffer |= int.from_bytes(data, "little") << self.count
            self.count += 8 * len(data)
        entry = table[self.buffer & (len(table) - 1)]
        if entry is None:
            raise ValueError("an undefined code")
        self.take(entry[1])
        return entry[0]

    def bytes(self, count: int) -> Iterator[bytes]:
        """Bytes at a byte boundary; fewer at the end of the stream."""
        while count and self.count:
            count -= 1
            data = bytes([self.buffer & 255])
            self.buffer >>= 8
            self.count -= 8
            yield data
        while count and (data := self.read(min(count, 1 << 20))):
            count -= len(data)
            yield data

    def is_end(self) -> bool:
        """Whether the end of the stream is reached."""
        if not self.count:
            data = self.read(_READ)
            self.buffer, self.count = int.from_bytes(data, "little"), 8 * len(data)
        return not self.count


def _limit_blocks(blocks: int, tables: int, size: int) -> None:
    """Raise ValueError when a file has too many blocks for its size.

    size: bytes of the gzip file so far. Every block costs time, and a table of codes costs most.
    Compressors end a block after thousands of tokens; a file of tiny blocks would keep a host busy
    for hours.
    """
    if blocks > 4096 + size // 4 or tables > 256 + size // 256:
        raise ValueError("too many deflate blocks for the file's size")


def unfold(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the records of a gzip file. Raises ValueError when it is not valid (RFC 1952).

    The output is at most about 16 times as long as the file (a copy of two bits takes four bytes).
    """
    bits = _Bits(stream)
    blocks = tables = 0
    while not bits.is_end():
        yield from _raw(_gzip_header(bits))
        last = 0
        while not last:
            last, kind = bits.take(1), bits.take(2)
            # A block becomes three or more records, and `fold` counts records.
            blocks, tables = blocks + 8, tables + (kind == _OWN)
            _limit_blocks(blocks, tables, stream.tell())
            if kind == _STORED:
                yield from _stored(bits)
            elif kind in {_FIXED, _OWN}:
                found = _tables(bits) if kind == _OWN else rfc.fixed_tables()
                yield _record(b"D" if kind == _OWN else b"B", bits.taken())
                if kind == _FIXED:
                    yield _record(b"F", b"")
                yield from _tokens(bits, *found)
            else:
                raise ValueError("an undefined block type")
        bits.take(bits.count % 8)
        yield _record(b"B", bits.taken())
        yield from _raw(b"".join(bits.bytes(8)))


def fold(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the gzip file that these records describe. pieces: of any length.

    Raises ValueError for invalid records, and for records with less output than those of `unfold`:
    so time and input are limited in proportion to the output.
    """
    codes: tuple[list[str], list[str]] = ([], [])
    pending = ""
    records = tables = read = size = 0
    for kind, payload in _records(pieces):
        records, tables, read = records + 1, tables + (kind == b"D"), read + len(payload)
        _limit_blocks(records, tables, size)
        if read > 4 * _MAX_RECORD + 32 * size:
            raise ValueError("records without output")
        if kind == b"R":
            if pending:
                raise ValueError("a record of bytes does not start at a byte boundary")
            size += len(payload)
            yield payload
            continue
        text = ""
        if kind in {b"B", b"D"}:
            text = _text(payload)
            codes = rfc.codes(_lengths_of(text)) if kind == b"D" else codes
        elif kind == b"F":
            codes = rfc.fixed_codes()
        elif kind == b"T":
            text = _coded(payload, *codes)
        else:
            raise ValueError("an undefined record type")
        pending += text
        whole = len(pending) & ~7
        if whole:
            size += whole // 8
            yield int(pending[:whole][::-1], 2).to_bytes(whole // 8, "little")
            pending = pending[whole:]
    if pending:
        raise ValueError("the records end inside a byte")


def _record(kind: bytes, payload: bytes) -> bytes:
    return _RECORD.pack(kind, len(payload)) + payload


def _raw(data: bytes) -> Iterator[bytes]:
    if data:
        yield _record(b"R", data)


def _records(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
    held = bytearray()
    for piece in pieces:
        held += piece
        at = 0
        while len(held) - at >= _RECORD.size:
            kind, length = _RECORD.unpack_from(held, at)
            if length > _MAX_RECORD:
                raise ValueError("a record exceeds the limit")
            if len(held) - at < _RECORD.size + length:
                break
            at += _RECORD.size
            yield kind, bytes(held[at : at + length])
            at += length
        del held[:at]
    if held:
        raise ValueError("the input ends inside a record")


def _gzip_header(bits: _Bits) -> bytes:
    def take(count: int) -> bytes:
        data = b"".join(bits.bytes(count))
        if len(data) < count:
            raise ValueError("the gzip file is incomplete")
        return data

    header = take(10)
    if header[:3] != MAGIC:
        raise ValueError("not a gzip file")
    flags = header[3]
    if flags & _FLAG_EXTRA:
        length = take(2)
        header += length + take(int.from_bytes(length, "little"))
    for flag in (_FLAG_NAME, _FLAG_COMMENT):
        text = bytearray(b"1" if flags & flag else b"\0")
        while text[-1]:
            text += take(1)
            if len(text) > _MAX_NAME:
                raise ValueError("a name in the gzip header exceeds the limit")
        header += bytes(text[1:])
    return header + (take(2) if flags & _FLAG_CRC else b"")


def _stored(bits: _Bits) -> Iterator[bytes]:
    bits.take(bits.count % 8)
    length = bits.take(16)
    bits.take(16)
    yield _record(b"B", bits.taken())
    data = b"".join(bits.bytes(length))
    if len(data) < length:
        raise ValueError("the gzip file is incomplete")
    yield from _raw(data)


def _tables(bits: _Bits) -> tuple[rfc.Table, rfc.Table]:
    """The decoding tables of a block with dynamic codes."""
    literals, distances = _lengths(bits)
    return rfc.table(literals), rfc.table(distances)


def _lengths(bits: _Bits) -> tuple[list[int], list[int]]:
    """The code lengths of a block with dynamic codes."""
    literals, distances, count = bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4
    first = [0] * 19
    for index in range(count):
        first[_ORDER[index]] = bits.take(3)
    table = rfc.table(first)
    found: list[int] = []
    while len(found) < literals + distances:
        symbol = bits.symbol(table)
        if symbol < 16:  # noqa: PLR2004 RFC 1951, 3.2.7
            found.append(symbol)
        elif symbol == 16:  # noqa: PLR2004
            if not found:
                raise ValueError("a repeat code without a previous length")
            found += found[-1:] * (3 + bits.take(2))
        else:
            found += [0] * (3 + bits.take(3) if symbol == 17 else 11 + bits.take(7))  # noqa: PLR2004
    return found[:literals], found[literals : literals + distances]


def _lengths_of(text: str) -> tuple[list[int], list[int]]:
    """The code lengths from the bits of a record; they follow the 3 bits of the block header."""
    import io  # noqa: PLC0415

    data = int(text[3:][::-1] or "0", 2).to_bytes(-(-len(text) // 8) + 4, "little")
    return _lengths(_Bits(io.BytesIO(data)))


def _tokens(bits: _Bits, literals: rfc.Table, distances: rfc.Table) -> Iterator[bytes]:
    """Yield the token records of a block."""
    last = False
    while not last:
        try:
            payload, last = _some_tokens(bits, literals, distances)
        except (TypeError, IndexError) as error:
            raise ValueError("an undefined code") from error
        if bits.count < 0:
            raise ValueError("the gzip file is incomplete")
        yield _record(b"T", payload)


def _some_tokens(bits: _Bits, literals: rfc.Table, distances: rfc.Table) -> tuple[bytes, bool]:
    """The payload of the next token record, and whether the block ends after it.

    Most time is spent in this loop: it uses locals and has no calls or checks. An undefined code is
    None in the table and raises TypeError; after the end of the stream `count` becomes negative.
    """
    read, buffer, count = bits.read, bits.buffer, bits.count
    mask, distance_mask = len(literals) - 1, len(distances) - 1
    out, run, symbol = bytearray(b"\0"), bytearray(), 0
    while len(out) < _TOKENS:
        if count < _ENOUGH:
            data = read(_READ)
            buffer |= int.from_bytes(data, "little") << count
            count += 8 * len(data)
        symbol, used = literals[buffer & mask]  # type: ignore[misc]
        buffer >>= used
        count -= used
        if symbol < _END:
            run.append(symbol)
            if len(run) == _MAX_RUN:
                out += _FULL_RUN + run
                run.clear()
            continue
        if symbol == _END:
            break
        extra = rfc.EXTRA_LENGTH[symbol - 257]
        length = rfc.BASE_LENGTH[symbol - 257] + (buffer & ((1 << extra) - 1))
        buffer >>= extra
        count -= extra
        near, used = distances[buffer & distance_mask]  # type: ignore[misc]
        buffer >>= used
        extra = rfc.EXTRA_DISTANCE[near]
        distance = rfc.BASE_DISTANCE[near] + (buffer & ((1 << extra) - 1))
        buffer >>= extra
        count -= used + extra
        out += _TOKEN.pack(len(run), length - 3, distance) + run
        run.clear()
    if run:
        out += _TOKEN.pack(len(run), 0, 0) + run
    out[0] = symbol == _END
    bits.buffer, bits.count = buffer, count
    return bytes(out), symbol == _END


def _text(payload: bytes) -> str:
    """The bits of a record as digits, first bit first. Raises ValueError for a wrong length."""
    count = int.from_bytes(payload[:2], "little")
    if len(payload) != 2 + -(-count // 8) or int.from_bytes(payload[2:], "little") >> count:
        raise ValueError("a record has a wrong number of bits")
    return f"{int.from_bytes(payload[2:], 'little'):0{count}b}"[::-1] if count else ""


def _coded(payload: bytes, codes: list[str], distances: list[str]) -> str:
    """Encode a record of tokens as digits."""
    if not codes or not payload:
        raise ValueError("tokens before any code table")
    literal, copies, far = codes.__getitem__, codes[rfc.LITERALS :], rfc.distances()
    out: list[str] = []
    at, end = 1, len(payload)
    unpack = _TOKEN.unpack_from
    try:
        while at < end:
            run, length, distance = unpack(payload, at)
            at += 4
            if run:
                out += map(literal, payload[at : at + run])
                at += run
            if distance:
                symbol, extra = far[distance]
                out += (copies[length], distances[symbol], extra)
    except (IndexError, struct.error) as error:
        raise ValueError("invalid tokens") from error
    if payload[:1] == b"\1":
        out.append(codes[_END])
    return "".join(out)
