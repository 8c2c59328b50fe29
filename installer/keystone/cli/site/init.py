"""`keystone-install site init`: print a site file to start from."""

from __future__ import annotations

import click

from keystone import log
from keystone.site import template


@click.command("init")
@click.option("--probe/--no-probe", default=True, help="Fill in the values of this machine.")
def verb(probe: bool) -> None:
    """Print a commented site file to start from. This machine is the first Primer in it."""
    log.out(template.probed() if probe else template.example())
