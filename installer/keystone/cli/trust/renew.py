"""`keystone-install trust renew`: renew this Primer's certificates that are due."""

from __future__ import annotations

import datetime as dt

import click

from keystone import log
from keystone.install import renewal


@click.command("renew")
def verb() -> None:
    """Renew what is past two thirds of its life on this Primer, as the timer does."""
    log.info(renewal.renew(dt.datetime.now(dt.UTC)) or "Nothing to do: no certificate is due")
