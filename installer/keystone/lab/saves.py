"""`lab save` and `lab restore`: a whole site with all its machines, kept and brought back.

All machines are cut off at the same moment, as by a power cut: what is kept is what their disks
hold then. Nothing is copied that need not be: what was written becomes a layer that is never
written again, and the machines go on above it. So a later save lies on an earlier one.
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

    from keystone.lab.machine import Machine
    from keystone.lab.machines import Lab

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Saved:
    """A site that was kept. running: the machines that ran then."""

    name: str
    machines: tuple[str, ...]
    running: tuple[str, ...]


def listed(lab: Lab) -> tuple[Saved, ...]:
    """What was saved, by name."""
    folder = lab.folder / "saves"
    paths = sorted(folder.glob("*/save.json")) if folder.is_dir() else []
    return tuple(_read(path.parent) for path in paths)


def save(lab: Lab, name: str) -> dict[str, float]:
    """Keep all machines as they are and start again those that ran; the seconds each start took.

    Raises UsageError for a name that is none or is taken, or a lab without machines.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name", hint="small letters, digits, . _ -")
    target = lab.folder / "saves" / name
    with lab.alone():
        machines = lab.made()
        if target.exists():
            whole = (target / "save.json").exists()
            why = "is taken" if whole else "was cut while it was made, and is no whole site"
            raise UsageError(f"{name} {why}", hint="choose another name")
        if not machines:
            raise UsageError("there are no machines to save", hint="lab up")
        running = [machine for machine in machines if machine.pid()]
        _cut(running)
        for machine in machines:
            machine.seal(target / machine.name)
        _write(target, machines, running)
    return lab.up([machine.name for machine in running])


def restore(lab: Lab, name: str) -> dict[str, float]:
    """Bring all machines back to what was saved, and start those that ran then; seconds by machine.

    What they have written since is lost. Raises UsageError when there is no such name.
    """
    folder = lab.folder / "saves" / name
    if not NAME.fullmatch(name) or not (folder / "save.json").is_file():
        known = ", ".join(saved.name for saved in listed(lab)) or "nothing"
        raise UsageError(f"{name}: no such site is kept", hint=f"saved: {known}")
    saved = _read(folder)
    with lab.alone():
        back, there = lab.machines(saved.machines), lab.made()
        _cut([machine for machine in there if machine.pid()])
        for machine in there:
            if machine.name not in saved.machines:
                machine.forget()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda machine: machine.restore(folder / machine.name), back))
    return lab.up(saved.running)


def _cut(machines: Sequence[Machine]) -> None:
    """All at once: none sees another one die."""
    with log.step("power off, all machines at once"), ThreadPoolExecutor() as pool:
        list(pool.map(methodcaller("pause"), machines))
        list(pool.map(methodcaller("power_cut"), machines))


def _read(folder: Path) -> Saved:
    value = json.loads((folder / "save.json").read_text())
    return Saved(folder.name, tuple(value["machines"]), tuple(value["running"]))


def _write(target: Path, machines: Sequence[Machine], running: Sequence[Machine]) -> None:
    value = {"machines": [m.name for m in machines], "running": [m.name for m in running]}
    write_whole(target / "save.json", json.dumps(value).encode(), 0o644)
