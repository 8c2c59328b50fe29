"""Parse JSON from registries, token servers, archives and other foreign files.

`strict_json` is for signed documents; this module accepts everything that JSON allows, such as
fractions from a registry. All errors in the text, including too deep nesting, are ValueError.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG = (ValueError, LookupError, TypeError, AttributeError)
"""Exceptions that reading a parsed value raises when it does not have the expected structure."""


def loads(data: bytes | str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:  # noqa: ANN401 any JSON value
    """Parse JSON. hook: converts each object (json.loads). Raises ValueError for invalid JSON."""
    try:
        return json.loads(data, object_hook=hook)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
