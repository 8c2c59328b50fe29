"""`keystone-install backup keys ...`: the operator's key, which alone opens backups."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "init": "Make a key pair: KEYFILE, encrypted, and the public key for the site file.",
    "show": "Show the public key of KEYFILE.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("keys", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Make the key pair that backups are sealed to. Keep KEYFILE outside of the site."""
