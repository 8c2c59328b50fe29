"""`keystone-install member ...`: run over ssh on Primers by `status` and `etcd restore`."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "finish": "Restart the clients of etcd on this host and forget the restore ID.",
    "report": "Print what `status` shows of this host, within seconds (JSON).",
    "send": "Write a snapshot to standard output.",
    "stage": "Restore the snapshot from standard input beside the data of member NAME.",
    "state": "Print the state of this host's member and its snapshots (JSON).",
    "swap": "Put the restored data of restore ID in place, and start the member.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("member", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Show this host, or restore its etcd member step by step."""
