"""`keystone-install etcd snapshot ...`: snapshots of etcd on this Primer."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "list": "List the snapshots on this Primer, the newest first.",
    "take": "Take a snapshot of etcd now.",
    "verify": "Restore FILE into a scratch member, which nothing else sees, and read it.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("snapshot", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Snapshots of etcd on this Primer.

    The timer keystone-maintain takes one every five minutes when the database changed.
    """
