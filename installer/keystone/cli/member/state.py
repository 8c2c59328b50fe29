"""`keystone-install member state`: what this host has to restore from."""

from __future__ import annotations

import click

from keystone import log
from keystone.cluster import member, recovery


@click.command("state")
def verb() -> None:
    """Print the state of this host's member and its snapshots (JSON)."""
    log.out_json(recovery.as_document(member.state()))
