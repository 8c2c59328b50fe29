"""Record which content each bundle number was signed for, so that no number is signed twice.

The record is DIR/issued.json beside the release key. A host refuses a number that it accepted with
other content, but only after the bundle was carried there; this record tells the signer at once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from keystone.errors import ConfigurationError
from keystone.files import write_file
from keystone.packager import lock as locks
from keystone.packager.keys import roots

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.packager.lock import Lock

FILE = "issued.json"


def claim(folder: Path, lock: Lock) -> None:
    """Record that this lock's number stands for its content. Claiming it again changes nothing.

    Raises ConfigurationError when the number was used for other content, or is smaller than one
    that was used already.
    """
    path = folder / FILE
    with roots.locked(folder):
        issued = _read(path)
        ours = issued.setdefault(lock.name, {})
        if _is_free(ours, lock):
            ours[str(lock.number)] = locks.digest(lock)
            write_file(path, (json.dumps(issued, indent=1, sort_keys=True) + "\n").encode())
            return
    highest = _highest(ours)
    raise ConfigurationError(
        f"bundle {lock.name} number {lock.number}: number {highest} was signed already with other "
        f"content ({path}); hosts would refuse this bundle",
        hint=f"lock again with --keys {folder}, or first set spec.number to {highest + 1}",
    )


def renumbered(folder: Path, lock: Lock) -> Lock:
    """Return the lock, with the lowest number that can be claimed when its own cannot.

    folder: of the keys. Raises ConfigurationError when it does not exist or its issued.json cannot
    be read.
    """
    roots.require(folder)
    ours = _read(folder / FILE).get(lock.name, {})
    return lock if _is_free(ours, lock) else replace(lock, number=_highest(ours) + 1)


def _is_free(ours: dict[str, str], lock: Lock) -> bool:
    return lock.number > _highest(ours) or ours.get(str(lock.number)) == locks.digest(lock)


def _highest(ours: dict[str, str]) -> int:
    return max((int(number) for number in ours), default=0)


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        issued: dict[str, dict[str, str]] = json.loads(path.read_bytes()) if path.exists() else {}
        for numbers in issued.values():
            _highest(dict(numbers.items()))
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error}",
            hint="restore it; if it is lost, remove it and set spec.number above all used numbers",
        ) from error
    return issued
