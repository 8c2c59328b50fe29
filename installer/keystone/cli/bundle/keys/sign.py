"""`keystone-install bundle keys sign`: sign a proposed root as one of its holders."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.bundle.keys import passphrases, render
from keystone.cli.options import FILE, json_option, passphrase_option
from keystone.packager.keys import ceremony, roots


@click.command("sign")
@click.argument("path", metavar="PENDING", type=FILE)
@click.option("--key", type=FILE, required=True, help="Your root key (private).")
@passphrase_option
@json_option
def verb(path: Path, key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign a proposed root, on a machine that needs no network. Then carry the file back."""
    with roots.locked(path.parent):
        state = ceremony.sign(path, key, passphrases.of_key(key, passphrase_file))
    log.info(f"{path}: signed; payload {state.payload}")
    render.answer(roots.as_document(state), as_json=as_json)
