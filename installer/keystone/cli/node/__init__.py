"""`keystone-install node ...`: the machines of the site."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "list": "List Primers and workers: vote in etcd, node of the cluster, identity of the machine.",
    "replace": "Let new machines take the places of lost Primers.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("node", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """List the machines of the site, and replace them."""
