"""`keystone-install member report`: what this Primer says about itself."""

from __future__ import annotations

import click

from keystone import log
from keystone.install import report


@click.command("report")
def verb() -> None:
    """Print what `status` shows of this host, within seconds (JSON)."""
    log.out_json(report.gather())
