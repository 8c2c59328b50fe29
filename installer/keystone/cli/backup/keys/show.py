"""`keystone-install backup keys show`: the public key of a key file."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.backup import seal
from keystone.cli.backup.options import opening
from keystone.cli.options import EXISTING_FILE, json_option, passphrase_option


@click.command("show")
@click.argument("file", metavar="KEYFILE", type=EXISTING_FILE)
@passphrase_option
@json_option
def verb(file: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Show the public key of KEYFILE.

    So you know that you still have its passphrase.
    """
    public = seal.public_of(opening(file, passphrase_file))
    if as_json:
        log.out_json({"recipient": public})
    else:
        log.out(public)
