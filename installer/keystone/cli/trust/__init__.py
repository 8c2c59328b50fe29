"""`keystone-install trust ...`: the site's certificates."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "init": "Make the trust tree, or finish one that was begun; a complete one stays as it is.",
    "show": "List every certificate of the tree, with its end and its fingerprint.",
    "verify": (
        "Check every certificate, key, signature and the log; exit 7 when something is wrong."
    ),
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """The site's certificates: who vouches for whom, and until when."""
