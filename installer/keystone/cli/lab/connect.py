"""`keystone-install lab connect`: connect a machine to the network again."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("connect")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Connect MACHINE to the network again."""
    running(name, machine).connect()
