"""`keystone-install bundle keys show`: show the chain of roots and their keys."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.bundle.keys import render
from keystone.cli.options import json_option
from keystone.packager.keys import roots

WARN_DAYS = 180
"""Warn when a root expires within this many days: holders need time to meet and sign."""


@click.command("show")
@click.argument("path", metavar="DIR|ROOT", type=click.Path(path_type=Path, exists=True))
@json_option
def verb(path: Path, as_json: bool) -> None:
    """Show the chain of roots: keys, missing signatures, expiry."""
    if path.is_file():
        metadata = roots.read(path)
        one = roots.as_document(roots.state(metadata, roots.before(path, metadata.signed)))
        render.answer(one, as_json=as_json)
        return
    found = roots.describe(path)
    if as_json:
        log.out_json(found)
        return
    for one in (*found["roots"], *filter(None, [found["pending"]])):
        render.table(one)
    for key in found["privateKeys"]:
        log.out(f"private  {key['file']}: {'encrypted' if key['encrypted'] else 'NOT ENCRYPTED'}")
    if found["fingerprint"]:
        log.out(f"fingerprint, which operators type  {found['fingerprint']}")
    if found["daysLeft"] is not None and found["daysLeft"] < WARN_DAYS:
        left = log.count(found["daysLeft"], "day")
        log.warn(f"the root expires in {left}: renew it (bundle keys rotate)")
