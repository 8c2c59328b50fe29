"""`keystone-install member finish`: the end of a restore."""

from __future__ import annotations

import click

from keystone.cluster import member


@click.command("finish")
@click.argument("identity", metavar="ID")
def verb(identity: str) -> None:
    """Restart the clients of etcd on this host and forget the restore ID."""
    member.finish(identity)
