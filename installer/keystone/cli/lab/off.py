"""`keystone-install lab off`: power a machine off."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.lab.machines import machine_of
from keystone.cli.lab.options import machine_argument, name_option


@click.command("off")
@name_option
@machine_argument
@click.option("--cut", is_flag=True, help="Cut the power instead of shutting down.")
def verb(name: str, machine: str, cut: bool) -> None:
    """Power MACHINE off. `lab up --machines MACHINE` starts it again."""
    target = machine_of(name, machine)
    with log.step(f"power {machine} off"):
        if cut:
            target.power_cut()
        else:
            target.stop()
