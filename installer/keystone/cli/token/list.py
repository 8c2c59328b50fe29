"""`keystone-install token list`: list the tokens of this Primer."""

from __future__ import annotations

import time

import click

from keystone import log
from keystone.cli.token.state import state_of
from keystone.join import tokens as join


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(as_json: bool) -> None:
    """Show the tokens of this Primer. Their secrets are not stored, so not shown."""
    tokens = join.Tokens(join.DIRECTORY)
    rows = [(record, tokens.claimed(record.id)) for record in tokens.all()]
    now = int(tokens.now())
    if as_json:
        log.out_json([
            {
                "id": record.id,
                "role": record.role,
                "expires": record.expires,
                "state": state_of(record, claim, now),
                "hostname": claim.hostname if claim else None,
            }
            for record, claim in rows
        ])  # fmt: skip
        return
    log.table(
        ["id", "role", "expires", "state", "used by"],
        [
            (
                record.id,
                record.role,
                time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(record.expires)),
                state_of(record, claim, now),
                claim.hostname if claim else "",
            )
            for record, claim in rows
        ],
    )
