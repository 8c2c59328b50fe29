"""Names and types inside the archives of others, for looking only: nothing is ever unpacked.

Understands what Helm, dpkg-deb and git write: USTAR, GNU long names, pax headers. Bounded memory,
bounded output, and every member counts.
"""

from __future__ import annotations

import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
STEP = 1 << 16
MAX_EXTENDED = 1 << 16
"""Bytes of a pax header or of a long name."""
XZ_MEMORY = 24 << 20
"""Bytes that xz may use: a dictionary of 8 MiB, which is what dpkg-deb writes, and no more."""
TYPES = {b"0": "file", b"\0": "file", b"5": "directory", b"1": "hard link", b"2": "symbolic link"}


@dataclass(frozen=True)
class Entry:
    """One member. kind: file, directory, symbolic link, hard link, or "type <flag>"."""

    name: str
    kind: str
    size: int
    mode: int
    content: bytes = b""


@dataclass(frozen=True)
class Limits:
    """Bytes of all output, bytes of one member, members."""

    total: int
    member: int
    count: int


def plain(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """The bytes as they are. read: offset and count to bytes; size: of all of them."""
    for offset in range(0, size, STEP):
        yield read(offset, min(STEP, size - offset))


def gunzip(parts: Iterator[bytes]) -> Iterator[bytes]:
    """One gzip stream (RFC 1952). Raises ValueError for damage and for bytes behind it."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for part in parts:
            if unpacker.eof:
                raise ValueError("bytes behind the gzip stream")
            rest = part
            while rest:  # what is left when a step was full
                yield unpacker.decompress(rest, STEP)
                rest = unpacker.unconsumed_tail
            if unpacker.unused_data:
                raise ValueError("bytes behind the gzip stream")
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError("the gzip stream is cut")


def unxz(parts: Iterator[bytes]) -> Iterator[bytes]:
    """One xz stream. Raises ValueError for damage, too large a dictionary, bytes behind it."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    try:
        for part in parts:
            if unpacker.eof:
                raise ValueError("bytes behind the xz stream")
            yield unpacker.decompress(part, STEP)
            while _has_more(unpacker):
                yield unpacker.decompress(b"", STEP)
            if unpacker.unused_data:
                raise ValueError("bytes behind the xz stream")
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError("the xz stream is cut")


def _has_more(unpacker: lzma.LZMADecompressor) -> bool:
    return not unpacker.eof and not unpacker.needs_input


def entries(parts: Iterator[bytes], limits: Limits, *, keep: str | None = "") -> Iterator[Entry]:
    """Members in order. keep: the name whose content is wanted; None for all of them.

    Raises ValueError for anything that is no tar, too large or too much.
    """
    source = _Source(parts, limits.total)
    name, found = "", 0
    while any(block := source.take(BLOCK)):
        size, mode = _number(block[124:136]), _number(block[100:108])
        _require_checksum(block)
        flag = block[156:157]
        if flag in {b"x", b"g", b"L"}:
            body = source.take(-(-_bounded(size, MAX_EXTENDED) // BLOCK) * BLOCK)[:size]
            name = _extended(flag, body) or name
            continue
        found += 1
        if found > limits.count:
            raise ValueError(f"more than {limits.count} members")
        here = name or _name(block)
        stored = _bounded(size, limits.member) if TYPES.get(flag) == "file" else 0
        wanted = keep is None or here.removeprefix("./") == keep
        content = source.pass_by(-(-stored // BLOCK) * BLOCK, keep=wanted)[:size]
        yield Entry(here, TYPES.get(flag, f"type {flag!r}"), size, mode, content)
        name = ""
    source.drain()


class _Source:
    """Takes exact pieces out of chunks of any size, and counts."""

    def __init__(self, parts: Iterator[bytes], most: int) -> None:
        self._parts, self._left, self._buffer = parts, most, bytearray()

    def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def pass_by(self, count: int, *, keep: bool) -> bytes:
        if keep:
            return self.take(count)
        while count > len(self._buffer):
            count -= len(self._buffer)
            self._buffer.clear()
            self._more()
        del self._buffer[:count]
        return b""

    def drain(self) -> None:
        """To the end: what follows the archive's end is zeros in an honest one."""
        while True:
            if any(self._buffer):
                raise ValueError("bytes behind the archive's end")
            self._buffer.clear()
            try:
                self._more()
            except EOFError:
                return

    def _more(self) -> None:
        try:
            part = next(self._parts)
        except StopIteration:
            raise EOFError("the archive is cut") from None
        self._left -= len(part)
        if self._left < 0:
            raise ValueError("more bytes than any honest archive of its kind")
        self._buffer += part


def _number(text: bytes) -> int:
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        raise ValueError(f"a number that is not octal: {text!r}") from None


def _bounded(size: int, most: int) -> int:
    if not 0 <= size <= most:
        raise ValueError(f"a member of {size} bytes, where {most} are the most")
    return size


def _require_checksum(block: bytes) -> None:
    if sum(block[:148] + b" " * 8 + block[156:]) != _number(block[148:156]):
        raise ValueError("a header whose checksum is wrong")


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block.startswith(b"ustar\0", 257) else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8")


def _extended(flag: bytes, body: bytes) -> str:
    """The name that a GNU or pax header gives to the next member; "" when it gives none."""
    if flag == b"L":
        return body.rstrip(b"\0").decode("utf-8")
    found = ""
    while body:
        length, _, _ = body.partition(b" ")
        record = body[: int(length)]
        if not record.endswith(b"\n") or len(record) != int(length):
            raise ValueError("a pax record of another length")
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        if key in {b"size", b"linkpath"} or (key == b"path" and flag == b"g"):
            raise ValueError(f"a pax header that changes {key.decode()}")
        if key.startswith(b"GNU.sparse."):
            raise ValueError("a sparse member, which unpacks to any size")
        found = value.decode("utf-8") if key == b"path" else found
        body = body[int(length) :]
    return found
