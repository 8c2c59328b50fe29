"""`keystone-install lab disconnect`: disconnect a machine from the network."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("disconnect")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Disconnect MACHINE from the network."""
    running(name, machine).disconnect()
