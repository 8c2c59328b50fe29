"""`keystone-install bundle have`: write the have-list from which a packager makes a delta."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.bundle.delta import have_list as haves
from keystone.bundle.model import STORE
from keystone.cli.options import FILE, FOLDER, json_option


@click.command("have")
@click.argument("source", metavar="[BUNDLE]", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, required=True, help="The have-list to write.")
@click.option("--store", type=FOLDER, default=STORE, show_default=True, help="Folder of the store.")
@click.option(
    "--trust", "trust_folder", type=FOLDER, default="/var/lib/keystone/trust", show_default=True,
    help="Folder with the pinned root; the site's key is made there.",
)  # fmt: skip
@click.option("--root-fingerprint", help="SHA-256 of the trust root of BUNDLE.")
@json_option
def verb(
    source: Path | None, output: Path, store: Path, trust_folder: Path,
    root_fingerprint: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a have-list of this host's store, or of BUNDLE: a packager makes a delta from it."""
    found: Any = (
        haves.of_bundle(source, root_fingerprint, trust_folder)
        if source
        else haves.of_store(store, trust_folder)
    )
    done = haves.write(found, output, trust_folder)
    log.info(
        f"{output}: {log.count(done.blobs, 'blob')}, bundle number {done.number}, "
        f"{log.size(done.size)}; carry it to the packager, and tell them the site's key:"
    )
    if as_json:
        log.out_json(asdict(done))
    else:
        log.out(done.key)
