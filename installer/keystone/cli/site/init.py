"""`keystone-install site init`: a site file to begin with."""

from __future__ import annotations

import click

from keystone import log
from keystone.site import template


@click.command("init")
@click.option("--probe/--no-probe", default=True, help="Fill in what this machine is and has.")
def verb(probe: bool) -> None:
    """Print a commented site file, filled in with this machine as the first Primer."""
    log.out(template.probed() if probe else template.example())
