"""Which executable a bundle carries: the one that runs, or the one built from this checkout.

A lock names it `built:installer@<day>`. The day is the executable's build floor, decided when its
sources were first locked: so the same lock gives the same executable on any machine.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from datetime import date
from pathlib import Path

import keystone
from keystone.bundle.model import Digest
from keystone.bundle.trust import build_floor
from keystone.errors import ConfigurationError
from keystone.packager import installer
from keystone.packager.sources import cache

SOURCE = "built:installer"


def source(day: date) -> str:
    """How a lock names the executable with this build floor."""
    return f"{SOURCE}@{day.isoformat()}"


def for_lock(previous: tuple[str, Digest] | None, today: date) -> tuple[Path, str]:
    """The executable and its source for a new lock.

    previous: source and digest in the lock before. While it is made of the same, it keeps its day.
    """
    if previous is not None:
        path = executable(previous[0])
        if file_digest(path) == previous[1]:
            return path, previous[0]
    if _packed() is not None:
        return executable(""), source(build_floor.build_floor().date())
    return executable(source(today)), source(today)


def executable(source: str) -> Path:
    """The file. Raises ConfigurationError when this code is neither a checkout nor packed.

    source: as a lock has it; without a day in it, the one of this checkout.
    """
    if (own := _packed()) is not None:
        return own
    checkout = Path(keystone.__file__).resolve().parents[2]
    if not (checkout / "requirements.lock").is_file():
        raise ConfigurationError(
            f"{checkout}: not a checkout of Keystone, so its executable cannot be built",
            hint="run keystone-install from a checkout, or the packed executable itself",
        )
    _, _, text = source.partition("@")
    try:
        day = date.fromisoformat(text) if text else build_floor.CHECKOUT
    except ValueError as error:
        raise ConfigurationError(f"{source}: no day in it: {error}", hint="lock again") from error
    return installer.build(checkout, cache.root(), day)


def file_digest(path: Path) -> Digest:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def _packed() -> Path | None:
    """The executable that runs, if it is one."""
    own = Path(sys.argv[0])
    return own.resolve() if own.is_file() and zipfile.is_zipfile(own) else None
