"""`keystone-install storage ...`: the disks of the host it runs on."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "apply": "Make what is missing; a second run makes nothing.",
    "plan": "Show what `apply` would do; changes nothing.",
    "probe": "Show the disks of this host and what is on them.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Look at this host's disks, plan its pool and datasets, make them."""
