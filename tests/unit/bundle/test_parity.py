"""Compare the parity of parts with reedsolo's own encoder, column by column."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import reedsolo

from keystone.bundle.parts import parity

SIZE = 50


def chunks(count: int) -> list[bytes]:
    return [random.Random(index).randbytes(SIZE) for index in range(count)]


def encoded(data: list[bytes], extra: int) -> list[bytes]:
    found = []
    for factors in parity.coefficients(len(data), extra):
        total = parity.Sum()
        for factor, chunk in zip(factors, data, strict=True):
            total.add(factor, chunk)
        found.append(total.result(SIZE))
    return found


@pytest.mark.parametrize(("count", "extra"), [(1, 1), (10, 1), (10, 3), (223, 32)])
def test_parity_equals_the_output_of_reedsolo(count: int, extra: int) -> None:
    data = chunks(count)
    made = encoded(data, extra)
    codec = reedsolo.RSCodec(extra)
    for column in range(0, SIZE, 7):
        word = codec.encode(bytes(chunk[column] for chunk in data))
        assert bytes(chunk[column] for chunk in made) == bytes(word[count:])


def test_one_parity_part_is_xor() -> None:
    assert set(parity.coefficients(9, 1)[0]) == {1}


def test_two_parity_parts_repair_any_two_lost_parts() -> None:
    data = chunks(5)
    every = [*data, *encoded(data, 2)]
    for lost in combinations(range(7), 2):
        using = tuple(index for index in range(7) if index not in lost)
        for index in lost:
            total = parity.Sum()
            for factor, other in zip(parity.recovery(5, 2, using, index), using, strict=True):
                total.add(factor, every[other])
            assert total.result(SIZE) == every[index]


def test_shorter_chunks_are_padded_with_zeros() -> None:
    total = parity.Sum()
    total.add(1, b"\x01\x02\x03")
    total.add(1, b"\x01")
    assert total.result(4) == b"\x00\x02\x03\x00"
