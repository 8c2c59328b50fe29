"""JSON of registries, token servers, archives and files that others wrote.

Unlike `strict_json`, which is for what is signed, it takes whatever JSON allows: a registry may say
fractions. Whatever is wrong with the text is one kind of error, nesting without end too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG = (ValueError, LookupError, TypeError, AttributeError)
"""What reading members raises when the value is another one than its reader takes it for."""


def loads(data: bytes | str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:  # noqa: ANN401 any JSON value
    """The value; hook: makes something of each object. Raises ValueError for what is no JSON."""
    try:
        return json.loads(data, object_hook=hook)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
