"""`keystone-install lab pause`: suspend a machine."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("pause")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Suspend all processes of MACHINE."""
    running(name, machine).pause()
