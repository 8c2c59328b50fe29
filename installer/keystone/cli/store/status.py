"""`keystone-install store status`: show which bundle this host has."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.cli.store.options import store_option
from keystone.store import store as stores


@click.command("status")
@store_option
@json_option
def verb(store: Path, as_json: bool) -> None:
    """Show which bundle the store holds, and whether it is complete."""
    found = stores.status(store)
    if as_json:
        log.out_json(stores.as_json(found))
        return
    log.table(
        ("bundle", "number", "digest", "complete", "blobs", "size"),
        [(found.bundle, found.number, found.digest, found.complete, found.blobs,
          log.size(found.bytes))],
    )  # fmt: skip
