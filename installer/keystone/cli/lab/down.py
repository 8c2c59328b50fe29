"""`keystone-install lab down`: stop machines."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.lab.options import name_option
from keystone.lab.machines.lab import Lab


@click.command("down")
@name_option
@click.option("--purge", is_flag=True, help="Also remove the machines' disks, keys and logs.")
def verb(name: str, purge: bool) -> None:
    """Stop the machines and remove their network. The base image stays in the cache."""
    with log.step("lab down"):
        Lab(name).down(purge=purge)
