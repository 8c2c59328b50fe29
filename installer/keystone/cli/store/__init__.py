"""`keystone-install store ...`: the bundle's content on a Primer, and what it serves."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "ingest": "Copy a bundle into the store and publish it.",
    "publish": "Make registry, apt repositories and files match the store.",
    "status": "Show which bundle the store holds, and whether it is complete.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Manage the bundle's content on this host."""
