"""`keystone-install lab pull`: the stick is pulled out of a machine."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("pull")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Pull the stick out of MACHINE."""
    running(name, machine).pull()
