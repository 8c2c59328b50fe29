"""`keystone-install member swap`: put restored data in place."""

from __future__ import annotations

import click

from keystone.cluster import member


@click.command("swap")
@click.argument("identity", metavar="ID")
def verb(identity: str) -> None:
    """Put the restored data of restore ID in place, and start the member."""
    member.swap(identity)
