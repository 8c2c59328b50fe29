"""`keystone-install lab console`: print the console output of a machine."""

from __future__ import annotations

import click

from keystone import run
from keystone.cli.lab.machines import machine_of
from keystone.cli.lab.options import machine_argument, name_option


@click.command("console")
@name_option
@machine_argument
@click.option("--follow", is_flag=True, help="Keep printing new output.")
def verb(name: str, machine: str, follow: bool) -> None:
    """Print the console output of MACHINE."""
    path = str(machine_of(name, machine).console)
    run.replace(["tail", "-n", "+1", "-F", path] if follow else ["cat", path])
