"""`keystone-install backup keys init`: make a key pair."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.backup import seal
from keystone.cli.backup.options import new_passphrase
from keystone.cli.options import FILE, json_option, passphrase_option


@click.command("init")
@click.argument("file", metavar="KEYFILE", type=FILE)
@passphrase_option
@json_option
def verb(file: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair: KEYFILE, encrypted, and the public key for the site file.

    Run it on your own machine, not on a Primer. Without KEYFILE and its passphrase no backup can be
    opened: keep two copies apart from the site and from the backups.
    """
    public = seal.new_key(file, new_passphrase(passphrase_file))
    log.info(f"{file}: the private key, encrypted with the passphrase")
    log.info("the public key, for spec.backup.recipients of the site file:")
    if as_json:
        log.out_json({"recipient": public, "file": str(file)})
    else:
        log.out(public)
