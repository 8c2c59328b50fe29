"""Which numbers were given to which content: the packager's side of "never the same number twice".

DIR/issued.json beside the release key. A host refuses a number that it accepted with other content,
but by then the bundle has travelled; whoever signs notices at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keystone.bundle import lock as locks
from keystone.bundle.disk import write_file
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.bundle.lock import Lock

FILE = "issued.json"


def claim(folder: Path, lock: Lock) -> None:
    """Write down that this lock's number is this lock's content. Again the same is nothing new.

    Raises ConfigurationError when the number is taken, or below one that was given already.
    """
    path = folder / FILE
    try:
        issued: dict[str, dict[str, str]] = json.loads(path.read_bytes()) if path.exists() else {}
        ours = issued.setdefault(lock.name, {})
        numbers = [int(number) for number in ours.keys()]  # noqa: SIM118 a list has no keys
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error}",
            hint="restore it; if it is lost, remove it and take a number higher than any you gave",
        ) from error
    content = locks.digest(lock)
    if ours.get(str(lock.number)) == content:
        return
    if lock.number <= max(numbers, default=0):
        raise ConfigurationError(
            f"bundle {lock.name} number {lock.number}: number {max(numbers)} was signed already, "
            f"with other content ({path}); hosts would refuse this one",
            hint=f"set spec.number to {max(numbers) + 1} in the definition and lock again",
        )
    ours[str(lock.number)] = content
    write_file(path, (json.dumps(issued, indent=1, sort_keys=True) + "\n").encode())
