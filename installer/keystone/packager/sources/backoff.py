"""When to ask again, and for how long to wait: decided here, done in http.py."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time up to LAST_WAIT."""
LAST_WAIT = 30.0
LONGEST_WAIT = 300.0
"""Seconds; a server that asks for more (Retry-After) is not waited for."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one in a moment (RFC 9110, RFC 6585)."""


def retry_after(header: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number or an HTTP date; None without one.

    See RFC 9110, 10.2.3. A date that is past means at once; what cannot be read counts as absent.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())


def wait(attempt: int, asked: float | None, chance: float) -> float:
    """Seconds before the attempt after `attempt` (from 1).

    asked: what Retry-After said: never less than that. chance: in [0, 1), spreads many clients
    over the upper half of the exponential wait, so that they do not come back together.
    """
    ceiling: float = min(FIRST_WAIT * 2 ** (attempt - 1), LAST_WAIT)
    if asked is not None:
        return asked + chance * min(ceiling, 1.0)
    return ceiling * (0.5 + chance / 2)
