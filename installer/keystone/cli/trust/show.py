"""`keystone-install trust show`: list every certificate of the tree."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.cli.trust.options import directory_option
from keystone.pki import rotation
from keystone.pki import tree as pki


@click.command("show")
@directory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times in ISO 8601, UTC.")
def verb(directory: Path, as_json: bool) -> None:
    """List every certificate with its expiry and fingerprint, and what was revoked."""
    entries = pki.tree(directory)
    if as_json:
        log.out_json(
            [{**vars(entry), "not_after": entry.not_after.isoformat()} for entry in entries]
        )
        return
    now = dt.datetime.now(dt.UTC)
    log.table(
        ("certificate", "issuer", "until (UTC)", "days left", "SHA-256", "rotation"),
        [
            (
                entry.path,
                entry.issuer.partition(",")[0].removeprefix("CN="),
                f"{entry.not_after:%Y-%m-%d %H:%M}",
                (entry.not_after - now).days,
                entry.fingerprint[:16],
                entry.rotation,
            )
            for entry in entries
        ],
    )
    for one in rotation.read(directory).revoked:
        log.info(f"revoked since {one.when}: {one.what}, serial {one.serial}, ends {one.until}")
