"""`keystone-install lab resume`: resume a paused machine."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("resume")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Resume MACHINE after `pause`."""
    running(name, machine).resume()
