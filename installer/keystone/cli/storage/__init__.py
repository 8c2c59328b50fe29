"""`keystone-install storage ...`: the disks of this host."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "apply": "Create the missing pool and datasets; a second run changes nothing.",
    "plan": "Show what `apply` would do; change nothing.",
    "probe": "Show the disks of this host and what is on them.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Inspect this host's disks; plan and create its pool and datasets."""
