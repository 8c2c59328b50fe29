"""JSON that can be read in one way only, for bytes that came from outside.

RFC 8259 leaves open what duplicate names, huge numbers, NaN and lone surrogates mean, and readers
differ; whoever signs and whoever reads must see the same document. So those are refused, and so is
a byte order mark, a fraction (nothing of ours has one) and nesting deeper than any honest file.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, 6)."""
MAX_VALUES = 400_000
"""Members and elements in one document; 30,000 blobs with names and sizes are half of that."""
SHOWN = 200
_DIGITS = len(str(MAX_INTEGER))


def loads(data: bytes) -> Any:  # noqa: ANN401 any JSON value
    """The value. Raises ValueError, which says what is wrong, for anything that is not plain."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refused,
            parse_constant=_refused,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error
    _plain(value)
    return value


def brief(error: Exception) -> str:
    """A parser's words, short enough for a message: they may quote megabytes."""
    text = str(error)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice in one object")
    return found


def _integer(text: str) -> int:
    # Length first: turning a million digits into a number takes quadratic time.
    if len(text.lstrip("-")) > _DIGITS or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"the number {text[:20]} is outside what JSON keeps exact (2^53)")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is not an integer")


def _plain(value: object) -> None:
    """Depth, and text that UTF-8 can write; level by level, so that no stack can overflow."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                item.encode()
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH}")
