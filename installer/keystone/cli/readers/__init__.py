"""`keystone-install readers ...`: run over ssh on Primers while trust is rotated."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "behind": "Print what does not follow the rotation of NAME on this Primer yet (JSON).",
    "node": "Let this Primer's node trust what the site trusts, and say so in its annotation.",
    "restart": "Restart the programs here that have not read the files of the rotation of NAME.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("readers", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Let the programs on this host read new CA files, one after another."""
