"""`keystone-install site ...`: write and check site files."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "check": "Check a site file and list all mistakes.",
    "init": "Print a commented site file to start from.",
    "introduce": "Make the keys by which Primers know each other.",
    "schema": "Print the JSON Schema of site files.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("site", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Write and check site files."""
