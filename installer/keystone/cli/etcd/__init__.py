"""`keystone-install etcd ...`: the quorum, seen from a Primer with the certificates here."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "restore": "Bring a lost etcd quorum back, from a surviving member or from a snapshot.",
    "snapshot": "Snapshots of etcd on this Primer.",
    "status": "Show every member: its state, whether it leads, size and quota of its database.",
}
MODULES = {
    "restore": f"{__name__}.restore:verb",
    "snapshot": f"{__name__}.snapshot:group",
    "status": f"{__name__}.status:verb",
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Show the etcd quorum; take and check snapshots of it; restore it when it is lost."""
