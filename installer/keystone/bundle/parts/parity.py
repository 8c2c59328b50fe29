"""Reed-Solomon parity across parts: as many parts may be lost as there are parity parts.

The code is reedsolo's systematic code over GF(256); with one parity part it equals XOR. reedsolo
computes the coefficients, on words of a few bytes, for encoding and for recovery. The bulk data is
processed with bytes.translate (multiplication by a constant) and XOR of large integers. Both run in
C and are faster than SHA-256, so no compiled library has to cross the air gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

MAX_PARTS = 255
"""Maximum number of data and parity parts together: the length of a code word."""
MAX_PARITY = 32
"""Maximum number of parity parts; each needs one chunk of memory while parity is computed."""


@cache
def coefficients(data: int, parity: int) -> tuple[tuple[int, ...], ...]:
    """For each parity part, the factor of each data part. data, parity: numbers of parts."""
    codec = _codec(parity)
    columns = [codec.encode(_unit(data, index))[data:] for index in range(data)]
    return tuple(tuple(column[row] for column in columns) for row in range(parity))


def recovery(data: int, parity: int, using: tuple[int, ...], lost: int) -> tuple[int, ...]:
    """The factors with which the parts `using` give the part `lost`.

    Parts count from 0, parity parts last. using: as many parts as there are data parts, without
    `lost`.
    """
    return tuple(word[lost] for word in _words(data, parity, using))


@lru_cache(maxsize=16)
def _words(data: int, parity: int, using: tuple[int, ...]) -> tuple[bytes, ...]:
    """For each part of `using`, its factor in every part. Takes 0.5 s for 223 + 32 parts.

    Cached for a few patterns of loss only, because damage can cause another pattern in every row.
    """
    codec = _codec(parity)
    erased = [index for index in range(data + parity) if index not in using]
    return tuple(
        bytes(codec.decode(_unit(data + parity, index), erase_pos=erased)[1]) for index in using
    )


@dataclass
class Sum:
    """A sum over GF(256) of chunks times factors; shorter chunks are padded with zeros."""

    value: int = 0

    def add(self, factor: int, chunk: bytes) -> None:
        """Add one chunk, multiplied by `factor`."""
        if factor:
            product = chunk if factor == 1 else chunk.translate(_table(factor))
            self.value ^= int.from_bytes(product, "little")

    def result(self, size: int) -> bytes:
        """The sum as `size` bytes."""
        return self.value.to_bytes(size, "little")


@cache
def _table(factor: int) -> bytes:
    import reedsolo  # noqa: PLC0415 builds tables that only parity needs

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
