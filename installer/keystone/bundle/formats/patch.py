"""A new file as what it shares with an old one, plus the rest: zstd with the old file as prefix.

`zstd --patch-from` wants both files in memory. Ours walks the new one in segments; each is a zstd
frame (RFC 8878) of its own whose prefix is the region of the old file that looks alike, so making
and applying take the same small memory whatever the size. Layout, integers little-endian:

    16 bytes a segment: offset and length of the prefix in the old file (u64, u32), length of the
    frame (u32); then the frame, which holds at most SEGMENT bytes. The end of the file ends it.

Whoever applies a patch has checked its digest before, and checks what comes out after.
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
"""What the bytes of a patch depend on beside the two files."""
SEGMENT = 2 << 20
"""Bytes of the new file in one frame."""
REACH = 1 << 20
"""How many bytes of the old file before and after the matching place a segment may draw from."""
LIMIT = SEGMENT + 2 * REACH
"""Bytes of the longest prefix."""
_HEADER = struct.Struct("<QII")
_PROBES = 16
_PROBE = 32
_NEAR = 256 << 10
_WINDOW = 23
"""log2 of the largest window that is read or written: prefix and segment fit into it."""
_OPTIONS: dict[int, int] = {
    # Level 9 searches rows of a hash table: beside level 16 it takes a tenth of the time for the
    # same size. 4 Mi entries hold every position of a prefix; with fewer the oldest are forgotten.
    zstd.CompressionParameter.compression_level: 9,
    zstd.CompressionParameter.window_log: _WINDOW,
    zstd.CompressionParameter.hash_log: 22,
}
_CHEAP: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW}
_HEAD_WINDOW = 24
"""The same of a file of a head, of which old and new have 8 MB at most (reader.MAX_MANIFEST)."""
_SHORTEST = 8
"""Bytes of the shortest prefix that zstd takes."""


def make(old: IO[bytes], new: IO[bytes]) -> Iterator[bytes]:
    """The patch from `old` to `new`, piece by piece. Same files and zstd release, same bytes."""
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
    """The new file. Raises DamagedBundleError when the patch does not fit the old file."""
    patch.seek(0)
    most = os.fstat(old.fileno()).st_size
    while header := patch.read(_HEADER.size):
        try:
            offset, length, size = _HEADER.unpack(header)
            if length > LIMIT or size > 2 * SEGMENT or offset + length > most:
                raise ValueError("larger than any patch is, or than the old file")
            data = _decompress(patch.read(size), _read(old, offset, length), _CHEAP, SEGMENT)
            if not data:
                raise ValueError("a frame of nothing")
            yield data
        except (struct.error, ValueError, zstd.ZstdError) as error:
            raise DamagedBundleError(
                f"a patch that does not fit what it is for ({error})",
                hint="have a full bundle made, and say so to whoever made this one",
                code="KSB-08",
            ) from error


def is_prefix(old: bytes) -> bool:
    """Whether zstd takes this as what a file is compared with."""
    return len(old) >= _SHORTEST


def patch_bytes(old: bytes, new: bytes) -> bytes:
    """One frame for data that is in memory anyway; `old` may be empty, or else as is_prefix says.

    Together at most 16 MiB.
    """
    log = min(max((len(old) + len(new)).bit_length(), 10), _HEAD_WINDOW)
    options = {**_OPTIONS, zstd.CompressionParameter.window_log: log}
    if not old:
        return zstd.compress(new, options=options)
    return zstd.compress(new, options=options, zstd_dict=zstd.ZstdDict(old, is_raw=True).as_prefix)


def apply_bytes(old: bytes, frame: bytes, size: int) -> bytes:
    """The data of `patch_bytes`; size: what it must have, in bytes. Raises ValueError."""
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _HEAD_WINDOW}
    data = _decompress(frame, old, options, size)
    if len(data) != size:
        raise ValueError("a frame of another length")
    return data


def _compress(data: bytes, prefix: bytes) -> bytes:
    if not prefix:
        return zstd.compress(data, options=_OPTIONS)
    return zstd.compress(
        data, options=_OPTIONS, zstd_dict=zstd.ZstdDict(prefix, is_raw=True).as_prefix
    )


def _decompress(frame: bytes, prefix: bytes, options: dict[int, int], most: int) -> bytes:
    """What a frame holds, `most` bytes at most. Raises ValueError for anything else."""
    try:
        dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
        engine = zstd.ZstdDecompressor(zstd_dict=dictionary, options=options)
        data = engine.decompress(frame, most + 1)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if not engine.eof or engine.unused_data or len(data) > most:
        raise ValueError("a frame of another length")
    return data


def _shift(old: IO[bytes], size: int, segment: bytes, start: int, last: int) -> int:
    """About how much further in the old file this segment's content stands, in bytes.

    Looks for samples near where the last segment's were, and everywhere when half of them are not
    there: what is inserted or removed moves everything after it by the same amount.
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
