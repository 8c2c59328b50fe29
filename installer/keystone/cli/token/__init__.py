"""`keystone-install token ...`: manage join tokens."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "create": "Create a token with which one machine can join.",
    "list": "Show the tokens of this Primer.",
    "revoke": "Revoke a token and the identity of its worker.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("token", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Create, list and revoke join tokens."""
