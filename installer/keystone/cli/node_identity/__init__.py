"""`keystone-install node-identity ...`: run over ssh on Primers that only carry pods."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "held": "Print whether this host has the identity of node NAME: yes or no.",
    "place": "Install the certificate and authority from standard input (JSON).",
    "request": "Print a certificate request (PEM) for node NAME; the key stays on this host.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("node-identity", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Request this host's identity as a node, and install it for kubelet."""
