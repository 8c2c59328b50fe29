"""`keystone-install node-identity request`: what a Primer's certificate is made from."""

from __future__ import annotations

import click

from keystone import log
from keystone.join import identity


@click.command("request")
@click.argument("name")
def verb(name: str) -> None:
    """Print the request for a certificate, PEM; the key stays here."""
    log.out(identity.made(name).strip())
