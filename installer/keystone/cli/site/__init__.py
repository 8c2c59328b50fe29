"""`keystone-install site ...`: write and check site files."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "check": "Read FILE (- for standard input) and list every mistake in it.",
    "init": "Print a commented site file, filled in with this machine as the first Primer.",
    "introduce": (
        "Make the keys by which the Primers of FILE know each other, for machines to be installed."
    ),
    "schema": "Print the JSON Schema of site files.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("site", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Write and check site files."""
