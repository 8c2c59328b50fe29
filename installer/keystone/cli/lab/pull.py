"""`keystone-install lab pull`: remove the stick from a machine."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("pull")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Remove the stick from MACHINE."""
    running(name, machine).pull()
