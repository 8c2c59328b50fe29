"""`keystone-install bundle keys ...`: the packager's keys, and the ceremony that changes them."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "collect": "Bring the signatures of copies together; with enough of them the root is valid.",
    "init": "Make the keys.",
    "new": "Make one holder's key; hand out NAME.pub, keep NAME.pem.",
    "rotate": "Propose the next root.",
    "show": "The chain of roots, who may sign, what is missing, and until when.",
    "sign": "Sign a proposed root, on a machine that needs no network.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("keys", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """The packager's signing keys: root keys, release key, and the chain of roots."""
