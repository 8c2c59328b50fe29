"""The build floor: a date before which no correct clock can be.

The clock of a machine with a dead battery shows 1970, so nothing would ever expire. So the
installer contains the day of its build. A packed executable has it in a file (`bundle lock` chooses
the day and writes it into the lock, so equal locks give equal executables); a checkout has the
constant.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import keystone

CHECKOUT = date(2026, 11, 1)
"""The build floor of a checkout: this code was written later."""
FILE = "_data/build-floor"
"""File in the package of a packed executable: one line, an ISO 8601 date."""


def build_floor(package: Path | None = None) -> datetime:
    """Midnight UTC of the installer's build day. package: folder of the package.

    Raises ValueError when the file exists and is not a date: the installer is damaged.
    """
    path = (package or Path(keystone.__file__).parent) / FILE
    day = date.fromisoformat(path.read_text().strip()) if path.exists() else CHECKOUT
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def write(package: Path, day: date) -> None:
    """Write the day into a package that is being packed. package: its folder."""
    path = package / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{day.isoformat()}\n")
