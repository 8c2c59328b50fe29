"""`keystone-install trust show`: every certificate of the tree."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.cli.trust.options import directory_option
from keystone.pki import tree as pki


@click.command("show")
@directory_option
@click.option("--json", "as_json", is_flag=True, help="For machines; times in ISO 8601, UTC.")
def verb(directory: Path, as_json: bool) -> None:
    """List every certificate of the tree, with its end and its fingerprint."""
    entries = pki.tree(directory)
    if as_json:
        log.out_json(
            [{**vars(entry), "not_after": entry.not_after.isoformat()} for entry in entries]
        )
        return
    now = dt.datetime.now(dt.UTC)
    log.table(
        ("certificate", "issuer", "until (UTC)", "days left", "SHA-256"),
        [
            (
                entry.path,
                entry.issuer.partition(",")[0].removeprefix("CN="),
                f"{entry.not_after:%Y-%m-%d %H:%M}",
                (entry.not_after - now).days,
                entry.fingerprint[:16],
            )
            for entry in entries
        ],
    )
