"""`keystone-install lab`: machines to try everything on, with no way to the internet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log, run
from keystone.lab import base as base_image
from keystone.lab import network
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = click.option("--name", default="", help="Name of the lab.  [default: from lab/lab.yaml]")


@click.group("lab", help="Machines on this host that reach each other and nothing else.")
def group() -> None:
    """Verbs of the lab."""


@group.command()
@NAME
@click.option("--machines", default="", help="Names with commas between, such as p1,w1.")
@click.option("--fresh", is_flag=True, help="Begin with new, empty machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def up(name: str, machines: str, fresh: bool, as_json: bool) -> None:
    """Start machines and wait until they answer ssh."""
    lab = Lab(name)
    times = lab.up(_names(machines), fresh=fresh)
    if as_json:
        log.out_json({"kvm": lab.kvm, "seconds": times})
        return
    rows = [
        (name, lab.settings.machine(name).address, log.duration(taken) if taken else "ran already")
        for name, taken in times.items()
    ]
    log.table(("machine", "address", "start"), rows, title="KVM" if lab.kvm else "emulated")


@group.command("run")
@NAME
@click.option("--machines", default="", help="Names with commas between.  [default: all]")
def run_(name: str, machines: str) -> None:
    """Do the main job in the lab: from nothing to a running cluster."""
    from keystone.lab import demo  # noqa: PLC0415 only this verb needs all of it

    lab = Lab(name)
    demo.main(lab, tuple(_names(machines) or [m.name for m in lab.settings.machines]))


@group.command(hidden=True)
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--speed", default=1.0, help="So many times as fast.", show_default=True)
@click.option("--at", default=0.0, help="Seconds after the start of the run, for --svg.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write a picture of that moment.")
def replay(recording: Path, speed: float, at: float, svg: Path | None) -> None:
    """Show a run again that `lab run` kept as demo.jsonl."""
    from keystone.lab import screen_replay  # noqa: PLC0415 only this verb needs it

    if svg:
        svg.write_text(screen_replay.svg(recording, at), "utf-8")
    else:
        screen_replay.play(recording, speed)


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
            (m.name, m.address, m.accelerator or "-", m.vcpus, m.memory or "-",
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
