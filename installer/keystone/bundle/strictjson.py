"""JSON that has one meaning (I-JSON, RFC 7493): what two readers could understand differently is
refused, and so is what costs more memory than it is worth.
"""

from __future__ import annotations

import json
from typing import Any

MAX_VALUES = 400_000
"""Members and elements in one document; 30,000 blobs with names and sizes are half of that."""
MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1
SHOWN = 200
"""Characters of a message about somebody else's bytes that are worth printing."""


def load(data: bytes) -> Any:  # noqa: ANN401 any JSON value
    """Parse UTF-8 without a byte order mark. Raises ValueError for anything that is not plain.

    Refused: keys there twice, NaN, fractions and exponents, integers beyond 2**53, lone
    surrogates, nesting beyond MAX_DEPTH, more than MAX_VALUES values.
    """
    text = data.decode("utf-8")
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refused,
            parse_float=_refused,
            parse_int=_integer,
        )
        _check(document, 0)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error
    return document


def brief(error: Exception) -> str:
    """A parser's words, short enough for a message: they may quote megabytes."""
    text = str(error)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refused(text: str) -> None:
    raise ValueError(f"{text[:SHOWN]} is not an integer")


def _integer(text: str) -> int:
    if len(text) > len(str(-MAX_INTEGER)) or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"{text[:SHOWN]} is beyond 2**53")
    return int(text)


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode("utf-8")
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
