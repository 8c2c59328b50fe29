"""`keystone-install node-identity held`: print whether the host has a node's identity."""

from __future__ import annotations

import click

from keystone import log
from keystone.join import identity


@click.command("held")
@click.argument("name")
def verb(name: str) -> None:
    """Print whether this host has the identity of node NAME: yes or no."""
    log.out("yes" if identity.held(name) else "no")
