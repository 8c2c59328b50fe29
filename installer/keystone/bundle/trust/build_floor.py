"""The build floor: a moment that no honest clock is before.

A machine whose battery died says 1970; then expiry would never come. So an installer carries the
day from which it was made. The packed executable has it in a file (`bundle lock` decides it, and
the lock says it, so the same lock gives the same executable); a checkout has the constant.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import keystone

CHECKOUT = date(2026, 11, 1)
"""This code was written after that day."""
FILE = "_data/build-floor"
"""Inside the package, in a packed executable: one line, ISO 8601 day."""


def build_floor(package: Path | None = None) -> datetime:
    """Midnight UTC of the day this installer was made from. package: folder of the package.

    Raises ValueError when the file is there and is no day: such an installer is damaged.
    """
    path = (package or Path(keystone.__file__).parent) / FILE
    day = date.fromisoformat(path.read_text().strip()) if path.exists() else CHECKOUT
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def write(package: Path, day: date) -> None:
    """Put the day into a package that is being packed."""
    path = package / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{day.isoformat()}\n")
