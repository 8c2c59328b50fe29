"""`keystone-install lab`: machines to try everything on, with no way to the internet."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from keystone import log, run
from keystone.lab import base as base_image
from keystone.lab import network
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = click.option("--name", default="", help="Name of the lab.  [default: from lab/lab.yaml]")

KIND = click.option(
    "--kind", default="auto", type=click.Choice(["auto", "virtual", "container"]),
    help="What machines are: QEMU, or Debian in namespaces.  [default: virtual where KVM works]",
)  # fmt: skip


@click.group("lab", help="Machines on this host that reach each other and nothing else.")
def group() -> None:
    """Verbs of the lab."""


@group.command()
@NAME
@KIND
@click.option("--machines", default="", help="Names with commas between, such as p1,w1.")
@click.option("--fresh", is_flag=True, help="Begin with new, empty machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def up(name: str, kind: str, machines: str, fresh: bool, as_json: bool) -> None:
    """Start machines and wait until they answer ssh."""
    lab = Lab(name, kind=kind)
    times = lab.up(_names(machines), fresh=fresh)
    if as_json:
        log.out_json({"kind": lab.kind, "emulated": lab.emulated, "seconds": times})
        return
    rows = [
        (name, lab.settings.machine(name).address, log.duration(taken) if taken else "ran already")
        for name, taken in times.items()
    ]
    log.table(("machine", "address", "start"), rows, title=_title(lab))


@group.command("run")
@NAME
@click.option("--machines", default="", help="Names with commas between.  [default: all]")
def run_(name: str, machines: str) -> None:
    """Do the main job in the lab: from nothing to a running cluster."""
    from keystone.lab import demo  # noqa: PLC0415 only this verb needs all of it

    lab = Lab(name)
    demo.main(lab, tuple(_names(machines) or [m.name for m in lab.settings.machines]))


@group.command()
@NAME
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str, as_json: bool) -> None:
    """Which machines run, and what they sent to where they should not."""
    lab = Lab(name)
    machines = [machine.status() for machine in lab.machines()]
    counters, leaked = network.counters(lab.settings), network.leaked(lab.settings)
    if as_json:
        log.out_json(
            {"machines": [asdict(m) for m in machines], "counters": counters, "leaked": leaked}
        )
        return
    log.table(
        ("machine", "address", "runs on", "processors", "memory", "NVMe serials", "console"),
        [
            (m.name, m.address, m.runs_on or "-", m.vcpus, m.memory or "-",
             " ".join(m.serials), m.console)
            for m in machines
        ],
    )  # fmt: skip
    if counters:
        log.table(("packets", "count"), sorted(counters.items()))
    for pair in leaked:
        log.warn(f"leaked: {pair}")


@group.command(context_settings={"ignore_unknown_options": True})
@NAME
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, machine: str, command: Sequence[str]) -> None:
    """Open a shell on MACHINE, or run COMMAND there (after --)."""
    run.replace(Lab(name).machine(machine).shell_argv(command))


@group.command()
@NAME
@click.option("--purge", is_flag=True, help="Remove the machines' disks, keys and logs too.")
def down(name: str, purge: bool) -> None:
    """Stop the machines and remove their network. The base image stays in the cache."""
    with log.step("lab down"):
        Lab(name).down(purge=purge)


@group.command()
@NAME
@click.option("--machines", default="", help="Names with commas between, such as p1,w1.")
def inventory(name: str, machines: str) -> None:
    """Print the machines as an Ansible inventory (JSON, which is YAML)."""
    log.out_json({"all": {"hosts": Lab(name).inventory(_names(machines))}})


@group.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def base(as_json: bool) -> None:
    """Build the base image unless it is there, and say where it lies."""
    image = base_image.image()
    if as_json:
        log.out_json({key: str(value) for key, value in asdict(image).items()})
    else:
        log.out(str(image.disk))


def _names(machines: str) -> list[str]:
    return [word for word in machines.replace(",", " ").split() if word]


def _title(lab: Lab) -> str:
    if lab.kind == "container":
        return "containers"
    return "emulated" if lab.emulated else "KVM"
