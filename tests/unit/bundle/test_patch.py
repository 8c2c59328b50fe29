"""Patches and unfolded gzip files are restored bit for bit, or refused."""

from __future__ import annotations

import gzip
import io
import random
import tempfile
import zlib
from pathlib import Path
from typing import IO

import pytest

from keystone.bundle.formats import deflate, patch, unfold
from keystone.errors import DamagedBundleError


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def text(lines: int, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    return b"".join(b"line %d of %d\n" % (n, chance.randrange(10**6)) for n in range(lines))


def file(data: bytes) -> IO[bytes]:
    made = tempfile.TemporaryFile()  # noqa: SIM115 closed with the test
    made.write(data)
    made.flush()
    made.seek(0)
    return made


def patched(old: bytes, new: bytes) -> int:
    """The size of the patch, after a check that it gives the new file."""
    with file(old) as before, file(new) as after, file(b"") as kept:
        for piece in patch.make(before, after):
            kept.write(piece)
        kept.flush()
        assert b"".join(patch.apply(before, kept)) == new
        return kept.tell()


OLD = noise(5 << 20)


@pytest.mark.parametrize(
    ("new", "most"),
    [
        (OLD, 2_000),
        (OLD[:100] + b"inserted" + OLD[100:], 2_500),
        (OLD[3 << 20 :] + OLD[: 3 << 20], 1_000_000),
        (noise(4 << 20, 2) + OLD, (4 << 20) + 3_000),
        (OLD[4 << 20 :], 1_000),
        (b"", 0),
        (bytes(5 << 20), 2_000),
    ],
    ids=["same", "inserted", "rotated", "moved far", "shortened", "empty", "zeros"],
)
def test_patch_gives_the_new_file(new: bytes, most: int) -> None:
    assert patched(OLD, new) <= most


def test_patch_against_an_empty_file() -> None:
    assert patched(b"", OLD) > len(OLD)


def test_patch_applied_to_another_file_gives_other_bytes() -> None:
    new = OLD[:100] + b"inserted" + OLD[100:]
    with file(OLD) as before, file(new) as after:
        pieces = b"".join(patch.make(before, after))
    with file(noise(5 << 20, 9)) as wrong, file(pieces) as kept:
        assert b"".join(patch.apply(wrong, kept)) != new


@pytest.mark.parametrize("at", [8, 12, 20])
def test_damaged_patch_raises_an_error_without_exhausting_memory(at: int) -> None:
    with file(OLD) as before, file(OLD[::-1]) as after:
        pieces = bytearray(b"".join(patch.make(before, after)))
    pieces[at : at + 3] = b"\xff\xff\xff"
    with file(OLD) as before, file(bytes(pieces)) as kept, pytest.raises(DamagedBundleError):
        list(patch.apply(before, kept))


def test_patch_bytes_applies_only_at_the_exact_size() -> None:
    old, new = text(1000), text(1000) + b"more"
    frame = patch.patch_bytes(old, new)
    assert len(frame) < 100
    assert patch.apply_bytes(old, frame, len(new)) == new
    assert patch.apply_bytes(b"", patch.patch_bytes(b"", new), len(new)) == new
    for size in (len(new) - 1, len(new) + 1):
        with pytest.raises(ValueError, match="wrong length"):
            patch.apply_bytes(old, frame, size)


def squeezed(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    engine = zlib.compressobj(level, zlib.DEFLATED, 31, 8, strategy)
    return engine.compress(data) + engine.flush()


CONTENT = text(20_000) + noise(100_000) + bytes(100_000)
NAMED = bytearray(squeezed(b"named"))
NAMED[3] = 2 | 4 | 8 | 16
FLAGS = bytes(NAMED[:10]) + b"\x03\x00abcname\x00comment\x00\x12\x34" + bytes(NAMED[10:])


@pytest.mark.parametrize(
    "data",
    [
        *(squeezed(CONTENT, level) for level in (0, 1, 6, 9)),
        squeezed(CONTENT, strategy=zlib.Z_FIXED),
        squeezed(CONTENT, strategy=zlib.Z_HUFFMAN_ONLY),
        squeezed(CONTENT, strategy=zlib.Z_RLE),
        squeezed(b""),
        squeezed(b"one") + squeezed(CONTENT) + squeezed(b""),
        FLAGS,
    ],
    ids=["stored", "1", "6", "9", "fixed", "huffman", "rle", "empty", "members", "flags"],
)
def test_gzip_unfolds_and_folds_to_the_same_bytes(data: bytes) -> None:
    records = b"".join(deflate.unfold(io.BytesIO(data)))
    assert b"".join(deflate.fold(iter([records]))) == data
    small = (records[at : at + 777] for at in range(0, len(records), 777))
    assert b"".join(deflate.fold(small)) == data


def test_gzip_with_flush_points_folds_to_the_same_bytes() -> None:
    """pigz and rsyncable writers make such files: with empty stored blocks in the middle."""
    engine = zlib.compressobj(6, zlib.DEFLATED, 31)
    data = b""
    for start in range(0, len(CONTENT), 50_000):
        data += engine.compress(CONTENT[start : start + 50_000])
        data += engine.flush(zlib.Z_FULL_FLUSH)
    data += engine.flush()
    records = b"".join(deflate.unfold(io.BytesIO(data)))
    assert b"".join(deflate.fold(iter([records]))) == data


@pytest.mark.parametrize("seed", range(60))
def test_damaged_gzip_raises_value_error_or_folds_to_the_same_bytes(seed: int) -> None:
    """A refused file is carried completely. Any file that is not refused must be restored."""
    chance = random.Random(seed)
    data = bytearray(squeezed(text(3000), chance.choice([1, 6, 9])))
    for _ in range(3):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    data = data[: chance.choice([len(data), chance.randrange(len(data))])]
    try:
        records = b"".join(deflate.unfold(io.BytesIO(bytes(data))))
    except ValueError:
        return
    assert b"".join(deflate.fold(iter([records]))) == data


@pytest.mark.parametrize(
    "records",
    [b"R\x05\0\0\0abc", b"X\0\0\0\0", b"T\x05\0\0\0\1\0\0\1\0", b"R\xff\xff\xff\xff", b"RR",
     b"B\x03\0\0\0\3\0\7R\1\0\0\0a", b"B\x03\0\0\0\3\0\7", b"D\x03\0\0\0\3\0\5"],
)  # fmt: skip
def test_invalid_records_raise_value_error(records: bytes) -> None:
    with pytest.raises(ValueError):
        list(deflate.fold(iter([records])))


def test_small_change_in_gzip_gives_a_small_patch(tmp_path: Path) -> None:
    lines = text(60_000)
    old = gzip.compress(lines, mtime=0)
    new = gzip.compress(lines[:9000] + b"a new line\n" + lines[9000:], mtime=0)
    with file(old) as before, file(new) as after:
        assert unfold.shared(before, after) == unfold.GZIP
        with (
            unfold.unfolded(unfold.GZIP, before, tmp_path) as plain,
            unfold.unfolded(unfold.GZIP, after, tmp_path) as wanted,
        ):
            size = len(b"".join(patch.make(plain, wanted)))
    assert size * 20 < len(new)
    assert patched(old, new) * 2 > len(new)
