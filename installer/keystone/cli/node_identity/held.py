"""`keystone-install node-identity held`: whether the host is that node already."""

from __future__ import annotations

import click

from keystone import log
from keystone.join import identity


@click.command("held")
@click.argument("name")
def verb(name: str) -> None:
    """Print whether this host has that name's identity already: yes or no."""
    log.out("yes" if identity.held(name) else "no")
