"""`keystone-install lab pause`: a machine is stopped where it is."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("pause")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Stop everything on MACHINE where it is."""
    running(name, machine).pause()
