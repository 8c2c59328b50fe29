"""`keystone-install member stage`: prepare restored data while the member keeps running."""

from __future__ import annotations

import json

import click

from keystone.cluster import member
from keystone.cluster.recovery import Order


@click.command("stage")
@click.argument("name")
@click.argument("order")
def verb(name: str, order: str) -> None:
    """Restore the snapshot from standard input beside the data of member NAME.

    ORDER: the restore as JSON.
    """
    with open(0, "rb", buffering=0, closefd=False) as stream:
        member.stage(name, Order(**json.loads(order)), stream)
