"""`keystone-install store ...`: a Primer's copy of the bundle, and what services serve of it."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "ingest": "Read a bundle once into the store, checking every byte; then publish it.",
    "publish": "Make registry, apt repositories and files match the store.",
    "status": "Which bundle the store holds, and whether all of it.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """The bundle's content on this host."""
