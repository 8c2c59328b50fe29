"""`keystone-install bundle keys ...`: the packager's keys, and how holders change the root."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "collect": "Collect the signatures of a proposed root.",
    "init": "Make the keys and the first root.",
    "new": "Make a holder's key: hand out NAME.pub, keep NAME.pem secret.",
    "rotate": "Propose the next root.",
    "show": "Show the chain of roots: keys, missing signatures, expiry.",
    "sign": "Sign a proposed root, on a machine that needs no network.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("keys", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Manage the packager's signing keys: root keys, release key, and the chain of roots."""
