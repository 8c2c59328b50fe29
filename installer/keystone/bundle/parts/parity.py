"""Reed-Solomon across parts: any of them may be lost, as many as there are parity parts.

The code is the systematic one over GF(256) that reedsolo defines; with one parity part it is
plain XOR. reedsolo works out the coefficients on words of a few bytes, both ways. What is long is
done by bytes.translate (multiply by a constant) and by XOR of large integers, both in C: faster
than SHA-256, in any Python, with no compiled library to carry across the gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

MOST = 255
"""Data and parity parts together: the length of a word of the code."""
MOST_PARITY = 32
"""Each takes a chunk of memory while parity is made."""


@cache
def coefficients(data: int, parity: int) -> tuple[tuple[int, ...], ...]:
    """For each parity part: the factor of each data part in it."""
    codec = _codec(parity)
    columns = [codec.encode(_unit(data, index))[data:] for index in range(data)]
    return tuple(tuple(column[row] for column in columns) for row in range(parity))


def recovery(data: int, parity: int, using: tuple[int, ...], lost: int) -> tuple[int, ...]:
    """The factor of each part of `using` in the part `lost`; parts count from 0, parity last.

    using: as many parts as there are data parts, `lost` not among them.
    """
    return tuple(word[lost] for word in _words(data, parity, using))


@lru_cache(maxsize=16)
def _words(data: int, parity: int, using: tuple[int, ...]) -> tuple[bytes, ...]:
    """For each part of `using`: its factor in every part. Half a second for 223 and 32.

    Kept for a few patterns of loss only: damage may make another one of every row.
    """
    codec = _codec(parity)
    erased = [index for index in range(data + parity) if index not in using]
    return tuple(
        bytes(codec.decode(_unit(data + parity, index), erase_pos=erased)[1]) for index in using
    )


@dataclass
class Sum:
    """A sum over GF(256) of chunks times factors; shorter chunks end in zeros."""

    value: int = 0

    def add(self, factor: int, chunk: bytes) -> None:
        """Add one chunk."""
        if factor:
            product = chunk if factor == 1 else chunk.translate(_table(factor))
            self.value ^= int.from_bytes(product, "little")

    def result(self, size: int) -> bytes:
        """The sum as `size` bytes."""
        return self.value.to_bytes(size, "little")


@cache
def _table(factor: int) -> bytes:
    import reedsolo  # noqa: PLC0415 only who makes or needs parity pays for its tables

    reedsolo.init_tables()
    return bytes(reedsolo.gf_mul(factor, value) for value in range(256))


@cache
def _codec(parity: int) -> Any:  # noqa: ANN401 reedsolo has no types
    import reedsolo  # noqa: PLC0415

    return reedsolo.RSCodec(parity)


def _unit(length: int, index: int) -> bytearray:
    word = bytearray(length)
    word[index] = 1
    return word
