"""`lab save` and `lab restore`: save all machines of a site, and restore them later.

All machines are switched off at the same moment, as by a power failure; the save is the content of
their disks then. Data is not copied: it becomes a layer that is never written again, and the
machines continue with layers above it. So a later save is based on an earlier one.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import UsageError
from keystone.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.lab.machines.lab import Lab
    from keystone.lab.machines.machine import Machine

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Saved:
    """A saved site. running: the machines that ran then."""

    name: str
    machines: tuple[str, ...]
    running: tuple[str, ...]


def listed(lab: Lab) -> tuple[Saved, ...]:
    """All saves, sorted by name."""
    folder = lab.folder / "saves"
    paths = sorted(folder.glob("*/save.json")) if folder.is_dir() else []
    return tuple(_read(path.parent) for path in paths)


def save(lab: Lab, name: str) -> dict[str, float]:
    """Save all machines, and restart those that ran; returns the seconds each start took.

    Raises UsageError for an invalid or existing name, and for a lab without machines.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name", hint="use small letters, digits, . _ -")
    target = lab.folder / "saves" / name
    with lab.alone():
        machines = lab.made()
        if target.exists():
            complete = (target / "save.json").exists()
            why = "exists already" if complete else "is an incomplete save"
            raise UsageError(f"{name} {why}", hint="choose another name")
        if not machines:
            raise UsageError("there are no machines to save", hint="start some: lab up")
        running = [machine for machine in machines if machine.pid()]
        _power_off(running)
        for machine in machines:
            machine.seal(target / machine.name)
        _write(target, machines, running)
    return lab.up([machine.name for machine in running])


def restore(lab: Lab, name: str) -> dict[str, float]:
    """Restore all machines, and start those that ran at the save; returns seconds by machine.

    Data written since is lost. Raises UsageError if there is no such save.
    """
    folder = lab.folder / "saves" / name
    if not NAME.fullmatch(name) or not (folder / "save.json").is_file():
        known = ", ".join(saved.name for saved in listed(lab)) or "nothing"
        raise UsageError(f"{name}: no such save", hint=f"saved: {known}")
    saved = _read(folder)
    with lab.alone():
        back, there = lab.machines(saved.machines), lab.made()
        _power_off([machine for machine in there if machine.pid()])
        for machine in there:
            if machine.name not in saved.machines:
                machine.forget()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda machine: machine.restore(folder / machine.name), back))
    return lab.up(saved.running)


def _power_off(machines: Sequence[Machine]) -> None:
    """Switch machines off at the same moment, so that none observes the end of another."""
    with log.step("power off, all machines at once"), ThreadPoolExecutor() as pool:
        list(pool.map(methodcaller("pause"), machines))
        list(pool.map(methodcaller("power_cut"), machines))


def _read(folder: Path) -> Saved:
    value = json.loads((folder / "save.json").read_text())
    return Saved(folder.name, tuple(value["machines"]), tuple(value["running"]))


def _write(target: Path, machines: Sequence[Machine], running: Sequence[Machine]) -> None:
    value = {"machines": [m.name for m in machines], "running": [m.name for m in running]}
    write_whole(target / "save.json", json.dumps(value).encode(), 0o644)
