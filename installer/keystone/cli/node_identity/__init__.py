"""`keystone-install node-identity ...`: run over ssh on Primers that carry pods only."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "held": "Print whether this host has that name's identity already: yes or no.",
    "place": "Take certificate and authority from standard input, JSON.",
    "request": "Print the request for a certificate, PEM; the key stays here.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("node-identity", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Ask for this host's identity as a node, and put it where kubelet looks."""
