"""`keystone-install image bless`: mark the running version as good."""

from __future__ import annotations

import click

from keystone import log
from keystone.appliance import upgrade as upgrading


@click.command("bless")
def verb() -> None:
    """Mark the running version as good. The machine does this itself after a good start."""
    log.info(upgrading.bless())
