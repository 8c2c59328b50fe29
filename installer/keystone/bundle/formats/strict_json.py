"""Parse untrusted JSON that has only one possible meaning.

RFC 8259 leaves the meaning of duplicate names, huge numbers, NaN and lone surrogates open, and
parsers differ; signer and reader must see the same document. So this parser refuses them. It also
refuses a byte order mark, fractions (Keystone's formats have none) and nesting above MAX_DEPTH.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON parser represents exactly (RFC 8259, 6)."""
MAX_VALUES = 400_000
"""Members and elements of one document; 30,000 blobs with names and sizes take half of them."""
SHOWN = 200
_DIGITS = len(str(MAX_INTEGER))


def loads(data: bytes) -> Any:  # noqa: ANN401 any JSON value
    """Parse a document. Raises ValueError, with the reason, when it is invalid or ambiguous."""
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
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    _limit_depth(value)
    return value


def brief(error: Exception) -> str:
    """The text of an error, truncated for a message: it may quote megabytes of input."""
    text = str(error)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} appears twice in one object")
    return found


def _integer(text: str) -> int:
    # Check the length first: int() of a million digits takes quadratic time.
    if len(text.lstrip("-")) > _DIGITS or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"the number {text[:20]} is outside the exact range of JSON (2^53)")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is not an integer")


def _limit_depth(value: object) -> None:
    """Check the nesting depth, and that UTF-8 can encode all text.

    Goes level by level, so deep nesting cannot overflow the stack. Raises ValueError.
    """
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
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
