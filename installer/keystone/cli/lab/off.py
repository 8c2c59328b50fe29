"""`keystone-install lab off`: a machine is powered off."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.lab.machines import machine_of
from keystone.cli.lab.options import machine_argument, name_option


@click.command("off")
@name_option
@machine_argument
@click.option("--cut", is_flag=True, help="Cut its power instead of asking it to power off.")
def verb(name: str, machine: str, cut: bool) -> None:
    """Power MACHINE off; `lab up --machines MACHINE` starts it again."""
    target = machine_of(name, machine)
    with log.step(f"{machine} off"):
        if cut:
            target.power_cut()
        else:
            target.stop()
