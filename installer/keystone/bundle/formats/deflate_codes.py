"""Huffman codes of deflate: how to build them, and the values that they encode (RFC 1951, 3.2).

A code is a string of the digits 0 and 1, first bit first. For decoding there are lookup tables.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Table = list[tuple[int, int] | None]
"""Symbol and code length in bits, indexed by the next bits (as many as the longest code has)."""
EXTRA_LENGTH = [0] * 8 + [n for n in range(1, 6) for _ in range(4)] + [0]
EXTRA_LENGTH[27] = 5
BASE_LENGTH = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83,
                99, 115, 131, 163, 195, 227, 258]  # fmt: skip
EXTRA_DISTANCE = [0, 0] + [n for n in range(14) for _ in range(2)]
BASE_DISTANCE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769,
                  1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577]  # fmt: skip
LITERALS = 286
"""Number of symbols for literals, the end of a block, and copy lengths."""
_FIXED_LENGTHS = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8


def fixed() -> tuple[list[int], list[int]]:
    """The code lengths of the fixed codes (3.2.6)."""
    return _FIXED_LENGTHS, [5] * 30


@cache
def fixed_tables() -> tuple[Table, Table]:
    """The tables of the fixed codes; cached, because a file may switch to them every ten bits."""
    literals, distances = fixed()
    return table(literals), table(distances)


@cache
def fixed_codes() -> tuple[list[str], list[str]]:
    """The fixed codes, as `codes` returns them."""
    return codes(fixed())


def _canonical(lengths: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Symbols and their codes, first bit first (RFC 1951, 3.2.2)."""
    most = max(lengths, default=0)
    code = 0
    for length in range(1, most + 1):
        for symbol, own in enumerate(lengths):
            if own == length:
                if code >> length:
                    raise ValueError("the code lengths are over-subscribed")
                yield symbol, f"{code:0{length}b}"
                code += 1
        code <<= 1


def table(lengths: Sequence[int]) -> Table:
    """Build the decoding table of the canonical codes with these lengths."""
    most = max(max(lengths, default=0), 1)
    found: Table = [None] * (1 << most)
    for symbol, code in _canonical(lengths):
        entry = (symbol, len(code))
        found[int(code[::-1], 2) :: 1 << len(code)] = [entry] * (1 << (most - len(code)))
    return found


def _reversed(value: int, count: int) -> str:
    return f"{value:0{count}b}"[::-1] if count else ""


_LENGTH_SYMBOL = [
    symbol
    for symbol, (low, high) in enumerate(pairwise([*BASE_LENGTH[:-1], 259]))
    for _ in range(low, high)
]
_LENGTH_SYMBOL[-1] = 28
_LENGTH_EXTRA = [
    _reversed(length - BASE_LENGTH[symbol], EXTRA_LENGTH[symbol])
    for length, symbol in enumerate(_LENGTH_SYMBOL, 3)
]


@cache
def distances() -> list[tuple[int, str]]:
    """Symbol and extra bits (as digits) of each distance up to 32768."""
    return [(0, "")] + [
        (symbol, _reversed(distance - low, EXTRA_DISTANCE[symbol]))
        for symbol, (low, high) in enumerate(pairwise([*BASE_DISTANCE, 32769]))
        for distance in range(low, high)
    ]


def codes(lengths: tuple[list[int], list[int]]) -> tuple[list[str], list[str]]:
    """The codes of literals and of distances. The 286 literals are followed by the copy lengths.

    A copy of 258 bytes has its own symbol, as every compressor writes it.
    """
    literals, distances = [""] * 288, [""] * 32
    for found, own in ((literals, lengths[0]), (distances, lengths[1])):
        for symbol, code in _canonical(own):
            found[symbol] = code
    copies = [
        literals[257 + symbol] + extra
        for symbol, extra in zip(_LENGTH_SYMBOL, _LENGTH_EXTRA, strict=True)
    ]
    return [*literals[:LITERALS], *copies], distances
