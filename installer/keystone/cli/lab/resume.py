"""`keystone-install lab resume`: a paused machine goes on."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("resume")
@name_option
@machine_argument
def verb(name: str, machine: str) -> None:
    """Let MACHINE go on after `pause`."""
    running(name, machine).resume()
