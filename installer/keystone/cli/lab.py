"""`keystone-install lab`: machines to try everything on, with no way to the internet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.cli import lab_machine
from keystone.lab import base as base_image
from keystone.lab import network, saves
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = lab_machine.NAME

KIND = click.option(
    "--kind", default="auto", type=click.Choice(["auto", "virtual", "container"]),
    help="virtual: QEMU; container: Debian in namespaces; auto: virtual where KVM works.",
    show_default=True,
)  # fmt: skip


@click.group("lab", help="Machines on this host that reach each other and nothing else.")
def group() -> None:
    """Verbs of the lab."""


for verb in lab_machine.VERBS:
    group.add_command(verb)


@group.command()
@NAME
@KIND
@click.option(
    "--machines", default="", help="Names with commas between.  [default: all in lab/lab.yaml]"
)
@click.option("--fresh", is_flag=True, help="Begin with new, empty machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def up(name: str, kind: str, machines: str, fresh: bool, as_json: bool) -> None:
    """Start machines and wait until they answer ssh."""
    lab = Lab(name, kind=kind)
    times = lab.up(_names(machines) or None, fresh=fresh)
    if as_json:
        log.out_json({"kind": lab.kind, "emulated": lab.emulated, "seconds": times})
        return
    _started(lab, times, _title(lab))


@group.command("run")
@NAME
@KIND
@click.option(
    "--machines", default="p1,p2,p3,w1", help="Names with commas between.", show_default=True
)
def run_(name: str, kind: str, machines: str) -> None:
    """Make the bundle, start machines, install a cluster, join a worker: `make demo`."""
    from keystone.lab import demo  # noqa: PLC0415 only this verb needs all of it

    demo.main(Lab(name, kind=kind), tuple(_names(machines)))


@group.command()
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
    """Which machines run, and which packets tried to leave."""
    lab = Lab(name)
    machines = [machine.status() for machine in lab.machines()] if lab.there else []
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
    if kept := saves.listed(lab):
        log.info(f"saved: {', '.join(saved.name for saved in kept)}")
    if counters:
        log.table(("packets", "count"), sorted(counters.items()))
    for pair in leaked:
        log.warn(f"leaked: {pair}")


@group.command()
@NAME
@click.argument("what", metavar="NAME")
def save(name: str, what: str) -> None:
    """Keep the whole site as NAME; its machines are cut off for a moment and start again."""
    lab = Lab(name)
    _started(lab, saves.save(lab, what), f"saved as {what}")


@group.command()
@NAME
@click.argument("what", metavar="NAME")
def restore(name: str, what: str) -> None:
    """Bring the whole site back to what was saved as NAME; what came after it is lost."""
    lab = Lab(name)
    _started(lab, saves.restore(lab, what), f"as it was saved as {what}")


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
    log.out_json({"all": {"hosts": Lab(name).inventory(_names(machines) or None)}})


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


def _started(lab: Lab, times: Mapping[str, float], title: str) -> None:
    rows = [
        (name, lab.settings.machine(name).address, log.duration(taken) if taken else "ran already")
        for name, taken in times.items()
    ]
    log.table(("machine", "address", "start"), rows, title=title)


def _title(lab: Lab) -> str:
    if lab.kind == "container":
        return "containers"
    return "emulated" if lab.emulated else "KVM"
