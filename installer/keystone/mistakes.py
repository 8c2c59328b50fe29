"""Turn schema errors into mistakes that the author understands: position, text, hint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from keystone.errors import Mistake

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Position = tuple[str | int, ...]
"""A position in a document: ("spec", "primers", 1, "address")."""

Written = Mapping[Position, tuple[str, bool]]
"""For each scalar, its text in the file and whether it was quoted."""


class Placed(Protocol):
    """A document that knows the line of each position."""

    def line(self, at: Position) -> int:
        """Return the line of a position, from 1."""
        ...

    def where(self, *at: str | int) -> str:
        """Return a position as messages show it: "site.yaml:12 spec.primers[1].address"."""
        ...


class Mistakes:
    """The mistakes of one document, sorted by line."""

    def __init__(self, document: Placed) -> None:
        self._document = document
        self._found: dict[tuple[int, Position, str], Mistake] = {}

    def add(self, at: Position, text: str, hint: str = "") -> None:
        """Add a mistake at a position of the document; the same mistake is kept once."""
        where = self._document.where(*at)
        self._found[self._document.line(at), at, text] = Mistake(where, text, hint)

    def touches(self, *at: str | int) -> bool:
        """Return whether a mistake was added at this position or below it."""
        return any(place[: len(at)] == at for _, place, _ in self._found)

    def __iter__(self) -> Iterator[Mistake]:
        order = sorted(self._found, key=lambda key: (key[0], dotted(key[1]), key[2]))
        return iter([self._found[key] for key in order])

    def __len__(self) -> int:
        return len(self._found)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the known word that is closest to `word`, or all known words."""
    words = sorted(known)
    folded = {name.lower(): name for name in words}
    close = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f'did you mean "{folded[close[0]]}"?' if close else f"known: {', '.join(words)}"


def dotted(at: Position) -> str:
    """Format a position for people: spec.primers[1].address."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.lstrip(".")


def explain(error: ValidationError, written: Written, mistakes: Mistakes) -> None:
    """Add the mistakes that a schema error means. written: texts of the document's scalars."""
    if error.validator in ("anyOf", "oneOf") and error.context:
        error = max(error.context, key=lambda branch: len(branch.absolute_path))
    at: Position = tuple(error.absolute_path)
    rule: Any = error.validator_value
    value: Any = error.instance
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    purpose = str(schema.get("description", ""))
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        for key in (key for key in value if key not in known):
            mistakes.add((*at, key), f'unknown key "{key}"', nearest(key, known))
    elif error.validator == "required":
        for key in (key for key in rule if key not in value):
            mistakes.add(at, f'the key "{key}" is missing')
    elif error.validator == "type":
        mistakes.add(at, *_wrong_type(at, rule, value, written))
    elif error.validator in _RULES:
        text, hint = _RULES[str(error.validator)](rule, value)
        mistakes.add(at, text, purpose or hint)
    else:
        mistakes.add(at, error.message[:200], purpose)


def _too_few(rule: int, value: list[object]) -> tuple[str, str]:
    return f"too few: {len(value)}", f"at least {rule}"


def _too_many(rule: int, value: list[object]) -> tuple[str, str]:
    return f"too many: {len(value)}", f"at most {rule}"


def _choices(rule: list[str], value: object) -> tuple[str, str]:
    names = [str(choice) for choice in rule]
    return f"{_shown(value)} is not one of: {', '.join(names)}", nearest(str(value), names)


_RULES: dict[str, Callable[[Any, Any], tuple[str, str]]] = {
    "enum": _choices,
    "const": lambda rule, value: (f"{_shown(value)} must be {_shown(rule)}", ""),
    "pattern": lambda rule, value: (f"{_shown(value)} is not allowed", f"must match {rule}"),
    "minimum": lambda rule, value: (f"{value} is too small", f"at least {rule}"),
    "maximum": lambda rule, value: (f"{value} is too large", f"at most {rule}"),
    "minItems": _too_few,
    "maxItems": _too_many,
    "minLength": _too_few,
    "maxLength": _too_many,
    "minProperties": _too_few,
    "maxProperties": _too_many,
    "uniqueItems": lambda _rule, _value: ("the same entry twice", "keep one"),
}
"""For each JSON Schema keyword: rule, value -> text, hint if the schema has no description."""


_NAMES = {
    "string": "text", "integer": "a whole number", "number": "a number", "null": "nothing",
    "boolean": "true or false", "array": "a list", "object": "keys with values",
}  # fmt: skip


def _wrong_type(
    at: Position, rule: str | list[str], value: object, written: Written
) -> tuple[str, str]:
    wanted = [rule] if isinstance(rule, str) else rule
    text, quoted = written.get(at, ("", False))
    expected = " or ".join(_NAMES.get(name, name) for name in wanted)
    if value is None:
        return f"the value is missing; expected {expected}", ""
    if "string" in wanted and not isinstance(value, dict | list):
        kind = "true or false" if isinstance(value, bool) else "a number"
        return f"{text} without quotes is read as {kind}; expected text", f'write "{text}"'
    if isinstance(value, str):
        return f"{_shown(value)} is text; expected {expected}", _unquoted(value, quoted)
    found = {bool: "true or false", list: "a list", dict: "keys with values"}
    return f"found {found.get(type(value), 'a number')}; expected {expected}", ""


_BOOLEANS = {
    "yes": "true", "on": "true", "y": "true", "true": "true",
    "no": "false", "off": "false", "n": "false", "false": "false",
}  # fmt: skip


def _unquoted(value: str, quoted: bool) -> str:
    if value.lower() in _BOOLEANS:
        return f"write {_BOOLEANS[value.lower()]}" + (" without quotes" if quoted else "")
    if re.fullmatch(r"0[0-9]+", value):
        return "write it without leading zeros"
    return f"write {value} without quotes" if quoted and re.fullmatch(r"[0-9.]+", value) else ""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 a line of a table
