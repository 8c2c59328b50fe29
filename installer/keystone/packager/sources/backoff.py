"""Decide when to retry a request and how long to wait before; http.py does it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time, up to LAST_WAIT."""
LAST_WAIT = 30.0
LONGEST_WAIT = 300.0
"""Seconds; fail at once when a server asks for a longer wait (Retry-After)."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that are temporary (RFC 9110, RFC 6585)."""


def retry_after(header: str, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), None without a valid one.

    header: seconds or an HTTP date; a date in the past gives 0.
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


def wait(attempt: int, least: float | None, chance: float) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1).

    least: the minimum from Retry-After, None without one. chance: a random number in [0, 1); it
    spreads clients over the upper half of the exponential wait, so that they do not retry together.
    """
    ceiling: float = min(FIRST_WAIT * 2 ** (attempt - 1), LAST_WAIT)
    if least is not None:
        return least + chance * min(ceiling, 1.0)
    return ceiling * (0.5 + chance / 2)
