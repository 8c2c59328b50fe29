"""`keystone-install lab connect`: a machine is put back on the network."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("connect")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Put MACHINE back on the network."""
    running(name, machine).connect()
