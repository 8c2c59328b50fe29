"""`keystone-install bundle keys new`: make the key of one holder."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.bundle.keys import passphrases
from keystone.cli.bundle.keys.options import plain_option
from keystone.cli.options import FILE, json_option, passphrase_option
from keystone.packager.keys import keyfile


@click.command("new")
@click.argument("path", metavar="NAME.pem", type=FILE)
@passphrase_option
@plain_option
@json_option
def verb(path: Path, passphrase_file: Path | None, plain: bool, as_json: bool) -> None:
    """Make a holder's key: hand out NAME.pub, keep NAME.pem secret."""
    key = keyfile.generate(path, passphrases.of_new_keys(passphrase_file, plain=plain))
    public = path.with_suffix(".pub")
    log.info(f"{path}: made key {key.keyid[:16]}; hand out {public}")
    if as_json:
        log.out_json({"keyid": key.keyid, "public": str(public)})
