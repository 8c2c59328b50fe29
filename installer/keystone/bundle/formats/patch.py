"""Binary patches: a new file as a zstd-compressed difference from an old file.

`zstd --patch-from` needs both files in memory. This module splits the new file into segments. Each
segment is a separate zstd frame (RFC 8878) whose prefix is the similar region of the old file, so
making and applying a patch need little memory, whatever the file size. Layout, little-endian:

    16 bytes per segment: offset and length of the prefix in the old file (u64, u32), length of
    the frame (u32); then the frame, which decompresses to at most SEGMENT bytes. The patch ends
    at the end of the file.

The caller of `apply` checks the digest of the patch before, and the digest of the result after.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from typing import IO, TYPE_CHECKING

from keystone.bundle.formats import zstd
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = f"1-{zstd.zstd_version}"
"""Format and zstd version: together with the two files they determine the bytes of a patch."""
SEGMENT = 2 << 20
"""Bytes of the new file in one frame."""
REACH = 1 << 20
"""Bytes before and after the matching region of the old file that the prefix includes."""
LIMIT = SEGMENT + 2 * REACH
"""Maximum bytes of a prefix."""
_HEADER = struct.Struct("<QII")
_PROBES = 16
_PROBE = 32
_NEAR = 256 << 10
_WINDOW = 23
"""log2 of the largest window that is read or written; prefix and segment fit into it."""
_OPTIONS: dict[int, int] = {
    # Level 9 (row-based match finder) takes a tenth of the time of level 16 for the same size.
    # 4 Mi hash entries cover every position of a prefix; with fewer, zstd drops the oldest.
    zstd.CompressionParameter.compression_level: 9,
    zstd.CompressionParameter.window_log: _WINDOW,
    zstd.CompressionParameter.hash_log: 22,
}
_CHEAP: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW}
_HEAD_WINDOW = 24
"""The same for files of a head: old and new have at most 8 MB each (format.MAX_MANIFEST)."""
_SHORTEST = 8
"""Minimum bytes of a prefix for zstd."""


def make(old: IO[bytes], new: IO[bytes]) -> Iterator[bytes]:
    """Yield the patch from `old` to `new`. Equal files and zstd release give equal bytes."""
    size = os.fstat(old.fileno()).st_size
    shift = start = 0
    new.seek(0)
    while segment := new.read(SEGMENT):
        shift = _shift(old, size, segment, start, shift)
        low = min(max(start + shift - REACH, 0), size)
        prefix = _read(old, low, min(start + shift + SEGMENT + REACH, size) - low)
        prefix = prefix if is_prefix(prefix) else b""
        frame = _compress(segment, prefix)
        yield _HEADER.pack(low, len(prefix), len(frame)) + frame
        start += len(segment)


def apply(old: IO[bytes], patch: IO[bytes]) -> Iterator[bytes]:
    """Yield the new file. Raises DamagedBundleError (KSB-08) when the patch does not apply."""
    patch.seek(0)
    most = os.fstat(old.fileno()).st_size
    while header := patch.read(_HEADER.size):
        try:
            offset, length, size = _HEADER.unpack(header)
            if length > LIMIT or size > 2 * SEGMENT or offset + length > most:
                raise ValueError("a segment exceeds the limit or the old file")
            data = _decompress(patch.read(size), _read(old, offset, length), _CHEAP, SEGMENT)
            if not data:
                raise ValueError("an empty frame")
            yield data
        except (struct.error, ValueError, zstd.ZstdError) as error:
            raise DamagedBundleError(
                f"the patch does not apply to the old file ({error})",
                hint="ask the packager for a full bundle, and report this delta to them",
                code="KSB-08",
            ) from error


def is_prefix(old: bytes) -> bool:
    """Whether zstd accepts `old` as a prefix."""
    return len(old) >= _SHORTEST


def patch_bytes(old: bytes, new: bytes) -> bytes:
    """Make one frame from data in memory. old: empty, or accepted by is_prefix.

    Both together may have at most 16 MiB.
    """
    log = min(max((len(old) + len(new)).bit_length(), 10), _HEAD_WINDOW)
    options = {**_OPTIONS, zstd.CompressionParameter.window_log: log}
    if not old:
        return zstd.compress(new, options=options)
    return zstd.compress(new, options=options, zstd_dict=zstd.ZstdDict(old, is_raw=True).as_prefix)


def apply_bytes(old: bytes, frame: bytes, size: int) -> bytes:
    """Apply a frame of `patch_bytes`. size: the required result in bytes.

    Raises ValueError when the frame does not give exactly `size` bytes.
    """
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _HEAD_WINDOW}
    data = _decompress(frame, old, options, size)
    if len(data) != size:
        raise ValueError("a frame has a wrong length")
    return data


def _compress(data: bytes, prefix: bytes) -> bytes:
    if not prefix:
        return zstd.compress(data, options=_OPTIONS)
    return zstd.compress(
        data, options=_OPTIONS, zstd_dict=zstd.ZstdDict(prefix, is_raw=True).as_prefix
    )


def _decompress(frame: bytes, prefix: bytes, options: dict[int, int], most: int) -> bytes:
    """Decompress exactly one frame of at most `most` bytes. Raises ValueError otherwise."""
    try:
        dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
        engine = zstd.ZstdDecompressor(zstd_dict=dictionary, options=options)
        data = engine.decompress(frame, most + 1)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if not engine.eof or engine.unused_data or len(data) > most:
        raise ValueError("a frame has a wrong length")
    return data


def _shift(old: IO[bytes], size: int, segment: bytes, start: int, last: int) -> int:
    """Estimate how far the content of this segment is displaced in the old file, in bytes.

    Searches for samples near the displacement of the last segment, because an insertion or removal
    moves everything after it by the same amount. Searches the whole old file when less than half
    of the samples are found there.
    """
    step = max(len(segment) // _PROBES, 1)
    probes = {at: segment[at : at + _PROBE] for at in range(0, len(segment), step)}
    probes = {at: text for at, text in probes.items() if len(set(text)) >= _PROBE // 4}
    low = max(start + last - REACH, 0)
    found = _find(probes, _read(old, low, min(size, start + last + SEGMENT + REACH) - low), low)
    position = 0
    while position < size and len(found) * 2 < len(probes):
        window = _read(old, position, LIMIT)
        found = _find(probes, window, position) | found
        position += LIMIT - _PROBE
    votes = Counter((place - at - start) // _NEAR for at, place in found.items())
    if not votes:
        return last
    return votes.most_common(1)[0][0] * _NEAR + _NEAR // 2


def _find(probes: dict[int, bytes], window: bytes, low: int) -> dict[int, int]:
    places = {at: window.find(text) for at, text in probes.items()}
    return {at: low + place for at, place in places.items() if place >= 0}


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    if length <= 0:
        return b""
    data = os.pread(file.fileno(), length, offset)
    while len(data) < length:
        more = os.pread(file.fileno(), length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
