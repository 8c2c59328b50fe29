"""`keystone-install bundle keys init`: make the first keys and the first root."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.bundle.keys import passphrases, render
from keystone.cli.bundle.keys.options import dir_option, plain_option
from keystone.cli.options import FILE, json_option, passphrase_option
from keystone.packager.keys import keys


@click.command("init")
@dir_option
@click.option(
    "--root-key", "holders", type=FILE, multiple=True,
    help="A holder's public key; repeat it for each holder. Without it a root key is made here.",
)  # fmt: skip
@click.option("--threshold", default=1, show_default=True, help="Number of holders that must sign.")
@passphrase_option
@plain_option
@json_option
def verb(
    folder: Path, holders: tuple[Path, ...], threshold: int, passphrase_file: Path | None,
    plain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make the keys and the first root. Tell operators the fingerprint out of band."""
    secret = passphrases.of_new_keys(passphrase_file, plain=plain)
    if holders:
        path = keys.init_apart(folder, holders, threshold, secret)
        render.proposed(path, as_json=as_json)
        return
    fingerprint = keys.init(folder, secret)
    log.info(f"{folder}: made the keys; move root.pem to a medium that stays offline")
    log.info("fingerprint of the root, which operators type:")
    if as_json:
        log.out_json({"fingerprint": fingerprint})
    else:
        log.out(fingerprint)
