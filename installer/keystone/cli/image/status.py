"""`keystone-install image status`: show which system runs on this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.appliance import status as statuses
from keystone.cli.options import json_option


@click.command("status")
@json_option
def verb(*, as_json: bool) -> None:
    """Show which system runs on this machine. Also shows what firmware and TPM report about it."""
    now = statuses.observe()
    if as_json:
        log.out_json(asdict(now))
    else:
        log.out(now.describe())
