"""JSON whose long lists are made while they are written.

An object of the SBOM libraries takes 20 KiB of memory, its text less than one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def dump(document: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """As json.dumps with an indent of 1, and a line break. Iterators at the top become arrays."""
    text = bytearray()
    for key in sorted(document) if sort_keys else document:
        text += b",\n " if text else b"{\n "
        text += f"{json.dumps(key)}: ".encode()
        value = document[key]
        if isinstance(value, Iterator):
            text += b"["
            for number, one in enumerate(value):
                text += b",\n  " if number else b"\n  "
                text += _indented(one, 2, sort_keys=sort_keys)
            text += b"\n ]"
        else:
            text += _indented(value, 1, sort_keys=sort_keys)
    return bytes(text + b"\n}\n")


def _indented(value: object, depth: int, *, sort_keys: bool) -> bytes:
    """A line break of JSON is never inside a string, so each begins a line."""
    text = json.dumps(value, indent=1, sort_keys=sort_keys)
    return text.replace("\n", "\n" + " " * depth).encode()
