"""Which machines a verb means, and what is said when they have started."""

from __future__ import annotations

from collections.abc import Mapping

from keystone import log
from keystone.errors import UsageError
from keystone.lab.machine import Machine
from keystone.lab.machines import Lab


def machine_of(name: str, machine: str) -> Machine:
    """A machine that was started once. Raises UsageError for any other."""
    lab = Lab(name)
    if not lab.there:
        hint = f"lab up --name {lab.settings.name}"
        raise UsageError(f"the lab {lab.settings.name} has no machines", hint=hint)
    target = lab.machine(machine)
    if not target.made():
        hint = f"lab up --name {lab.settings.name} --machines {machine}"
        raise UsageError(f"{machine} was never started", hint=hint)
    return target


def running(name: str, machine: str) -> Machine:
    """A machine that runs. Raises UsageError for any other."""
    target = machine_of(name, machine)
    if not target.pid():
        hint = f"lab up --name {Lab(name).settings.name} --machines {machine}"
        raise UsageError(f"{machine} does not run", hint=hint)
    return target


def names(machines: str) -> list[str]:
    """Names in one text, with commas or spaces between."""
    return [word for word in machines.replace(",", " ").split() if word]


def print_started(lab: Lab, times: Mapping[str, float], title: str) -> None:
    """Print how long each machine took to start. times: seconds, 0 for one that ran already."""
    rows = [
        (name, lab.settings.machine(name).address, log.duration(taken) if taken else "ran already")
        for name, taken in times.items()
    ]
    log.table(("machine", "address", "start"), rows, title=title)
