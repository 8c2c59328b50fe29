"""zstd from the standard library (Python 3.14, PEP 784), or from its backport for older Python.

Also computes the maximum size of a frame's content from its headers (RFC 8878, 3.1.1), without
decompressing it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdDict,
        ZstdError,
        ZstdFile,
        compress,
        zstd_version,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdDict,
        ZstdError,
        ZstdFile,
        compress,
        zstd_version,
    )

__all__ = [
    "CompressionParameter",
    "DecompressionParameter",
    "ZstdCompressor",
    "ZstdDecompressor",
    "ZstdDict",
    "ZstdError",
    "ZstdFile",
    "compress",
    "require_one",
    "zstd_version",
]

MAGIC = b"\x28\xb5\x2f\xfd"
WINDOW_LOG = 23
"""8 MiB: the window that every decoder should support (RFC 8878, 3.1.1.1.2)."""
MAX_BLOCK = 128 << 10
MAX_BLOCKS = 4096


def require_one(
    read: Callable[[int, int], bytes], size: int, most: int, window_log: int = WINDOW_LOG
) -> None:
    """Require exactly one frame whose content has at most `most` bytes. Raises ValueError.

    read: returns bytes for offset and count; size: of the frame in bytes; window_log: log2 of the
    largest window. Refuses skippable and concatenated frames, dictionaries, larger windows and
    incomplete frames.
    """
    head = read(0, 14)
    if head[:4] != MAGIC or len(head) < 6:  # noqa: PLR2004 magic, descriptor, one byte more
        raise ValueError("not a zstd frame")
    descriptor = head[4]
    if descriptor & 0b1000:
        raise ValueError("a reserved bit of the zstd frame is set")
    if descriptor & 0b11:
        raise ValueError("the zstd frame needs a dictionary")
    single = bool(descriptor & 0b100000)
    field = (int(single), 2, 4, 8)[descriptor >> 6]
    at = 5
    window = 0
    if not single:
        base = 1 << (10 + (head[5] >> 3))
        window = base + base // 8 * (head[5] & 7)
        at = 6
    content = int.from_bytes(head[at : at + field], "little") + (256 if field == 2 else 0)  # noqa: PLR2004
    if max(window, content if single else 0) > 1 << window_log or (field and content > most):
        raise ValueError("the zstd frame needs more memory than the limit")
    end = _blocks(read, at + field, size, most) + (4 if descriptor & 0b100 else 0)
    if end != size:
        raise ValueError("the zstd frame has trailing bytes or is incomplete")


def _blocks(read: Callable[[int, int], bytes], at: int, size: int, most: int) -> int:
    """The offset after the last block."""
    total = 0
    for _ in range(MAX_BLOCKS):
        if at + 3 > size:
            break
        header = int.from_bytes(read(at, 3), "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or length > MAX_BLOCK:  # noqa: PLR2004 reserved
            raise ValueError("an invalid zstd block")
        total += length if kind < 2 else MAX_BLOCK  # noqa: PLR2004 raw and RLE blocks contain their size
        if total > most + MAX_BLOCK:
            raise ValueError("the zstd frame can exceed the size limit")
        at += 3 + (1 if kind == 1 else length)
        if last:
            return at
    raise ValueError("the zstd frame is incomplete or has too many blocks")
