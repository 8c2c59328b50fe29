"""`keystone-install token ...`: let a machine in, once."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "create": (
        "Print the one command to run as root on the machine that joins, or write --to a stick."
    ),
    "list": "Show the tokens of this Primer.",
    "revoke": "Make a token worthless, and the identity of the machine that joined with it.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("token", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Create, list and revoke join tokens."""
