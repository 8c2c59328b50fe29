"""Decompress gzip, xz, bzip2 and zstd streams, detected by their first bytes, within limits.

`gunzip` and `unxz` are strict, for verification: one stream and no bytes after it. `expanded` also
accepts several streams in sequence, as programs write them.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from keystone.bundle.formats import zstd
from keystone.bundle.formats.pieces import PIECE, CutError, Reader, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_RATIO = 250
ROOM = 256 << 20
"""A stream may expand to ROOM + MAX_RATIO times its size; real image layers reach 100 times."""
XZ_MEMORY = 24 << 20
"""Maximum bytes that xz may use: enough for a dictionary of 8 MiB, which dpkg-deb writes."""
LZMA_MEMORY = 80 << 20
"""Bytes; `xz -9` needs 65 MiB to decompress."""
ZSTD_WINDOW = 26
"""Binary logarithm of the largest window in bytes."""
SKIPPABLE = frozenset(bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16))
"""First bytes of zstd frames without content, such as a table of contents (RFC 8878, 3.1.2)."""
FAILURES = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError)
"""Exceptions that decompressors raise for damaged input; OSError comes from bz2."""


class Engine(Protocol):
    """The interface of bz2.BZ2Decompressor."""

    @property
    def eof(self) -> bool:
        """True when the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """True when more output needs more input."""

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the stream."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Decompress; return at most max_length bytes."""


class _Inflate:
    """Give zlib's decompressor the interface of the others."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def needs_input(self) -> bool:
        return not self._engine.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._engine.decompress(self._engine.unconsumed_tail + data, max_length)


@dataclass(frozen=True)
class _Kind:
    """A format: its name, the first bytes of a stream, and its decompressor."""

    name: str
    magic: bytes
    engine: Callable[[], Engine]

    def starts(self, head: bytes) -> bool:
        return head.startswith(self.magic) or (self.name == "zstd" and head[:4] in SKIPPABLE)


def _unzstd() -> Engine:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})


GZIP = _Kind("gzip", b"\x1f\x8b", _Inflate)
XZ = _Kind("xz", b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY))
BZIP2 = _Kind("bzip2", b"BZh", bz2.BZ2Decompressor)
ZSTD = _Kind("zstd", zstd.MAGIC, _unzstd)
KINDS = (GZIP, XZ, BZIP2, ZSTD)


def gunzip(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress one gzip stream (RFC 1952).

    Raises UnreadableError for damage and for bytes after it.
    """
    return _only(Reader(parts), GZIP)


def unxz(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress one xz stream.

    Raises UnreadableError for damage, a dictionary above the limit, and bytes after the stream.
    """
    engine = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    return _only(Reader(parts), _Kind("xz", XZ.magic, lambda: engine))


def expanded(source: Reader, most: int | None = None) -> Reader:
    """Return the decompressed stream, or the stream itself if it is not compressed.

    most: maximum bytes of output; by default the limit depends on the input (ROOM, MAX_RATIO).
    Reading raises UnreadableError for damage, and above the limit.
    """
    head = source.peek(6)
    kind = next((kind for kind in KINDS if head.startswith(kind.magic)), None)
    if kind is None:
        return source if most is None else Reader(_capped(iter(source.some, b""), source, most))
    return Reader(_capped(_all(source, kind), source, most))


def gunzipped(source: Reader) -> Iterator[bytes]:
    """Decompress gzip streams in sequence without an output limit, for content that is only hashed.

    Raises UnreadableError for damage and for other bytes after them.
    """
    return _all(source, GZIP)


def _capped(
    pieces: Iterator[bytes | memoryview], source: Reader, most: int | None
) -> Iterator[bytes | memoryview]:
    given = 0
    for piece in pieces:
        given += len(piece)
        if most is not None and given > most:
            raise UnreadableError(f"expands to more than {most} bytes")
        if most is None and given > ROOM + MAX_RATIO * source.position:
            raise UnreadableError(f"expands to more than {MAX_RATIO} times its size")
        yield piece


def _only(source: Reader, kind: _Kind) -> Iterator[bytes]:
    yield from _one(source, kind)
    if source.peek(1):
        raise UnreadableError(f"bytes after the {kind.name} stream")


def _all(source: Reader, kind: _Kind) -> Iterator[bytes]:
    """Decompress streams in sequence; zeros that fill the last block may follow."""
    while kind.starts(source.peek(len(kind.magic))):
        yield from _one(source, kind, "cannot be decompressed: ")
    while rest := source.some():
        if any(rest):
            raise UnreadableError(f"bytes after the {kind.name} stream")


def _one(source: Reader, kind: _Kind, told: str = "") -> Iterator[bytes]:
    engine = kind.engine()
    while not engine.eof:
        data = bytes(source.some()) if engine.needs_input else b""
        if engine.needs_input and not data:
            raise CutError(f"the {kind.name} stream is incomplete")
        try:
            piece = engine.decompress(data, PIECE)
        except FAILURES as error:
            raise UnreadableError(f"{told}{error}") from error
        if piece:
            yield piece
    source.give_back(engine.unused_data)
