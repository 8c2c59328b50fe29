"""Find the machines that a verb names, and print the machines that were started."""

from __future__ import annotations

from collections.abc import Mapping

from keystone import log
from keystone.errors import UsageError
from keystone.lab.machines.lab import Lab
from keystone.lab.machines.machine import Machine


def machine_of(name: str, machine: str) -> Machine:
    """Return a machine that was started before. Raises UsageError for any other."""
    lab = Lab(name)
    if not lab.there:
        hint = f"start it: lab up --name {lab.settings.name}"
        raise UsageError(f"the lab {lab.settings.name} has no machines", hint=hint)
    target = lab.machine(machine)
    if not target.made():
        hint = f"start it: lab up --name {lab.settings.name} --machines {machine}"
        raise UsageError(f"{machine} was never started", hint=hint)
    return target


def running(name: str, machine: str) -> Machine:
    """Return a machine that runs. Raises UsageError for any other."""
    target = machine_of(name, machine)
    if not target.pid():
        hint = f"start it: lab up --name {Lab(name).settings.name} --machines {machine}"
        raise UsageError(f"{machine} is not running", hint=hint)
    return target


def names(machines: str) -> list[str]:
    """Split names that are separated by commas or spaces."""
    return [word for word in machines.replace(",", " ").split() if word]


def print_started(lab: Lab, times: Mapping[str, float], title: str) -> None:
    """Print how long each machine took to start. times: seconds, 0 if it was running already."""
    rows = [
        (name, lab.settings.machine(name).address, log.duration(taken) if taken else "was running")
        for name, taken in times.items()
    ]
    log.table(("machine", "address", "start"), rows, title=title)
