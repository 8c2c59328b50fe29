"""`keystone-install lab status`: show machines, and packets that tried to leave the lab."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.cli.lab.options import name_option
from keystone.cli.options import json_option
from keystone.lab.machines import network, saves
from keystone.lab.machines.lab import Lab


@click.command("status")
@name_option
@json_option
def verb(name: str, as_json: bool) -> None:
    """Show machines, and packets that tried to leave the lab."""
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
