"""`keystone-install node-identity request`: print a certificate request of a Primer."""

from __future__ import annotations

import click

from keystone import log
from keystone.join import identity


@click.command("request")
@click.argument("name")
def verb(name: str) -> None:
    """Print a certificate request (PEM) for node NAME; the key stays on this host."""
    log.out(identity.made(name).strip())
