"""`keystone-install site introduce`: make the keys by which Primers know each other."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log, passphrase
from keystone.cli.options import EXISTING_FILE, FOLDER
from keystone.site import introduction
from keystone.site import model as site


@click.command("introduce")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--to", "folder", type=FOLDER, required=True,
              help="Folder of the stick with the site file.")  # fmt: skip
@click.option("--root-fingerprint", default="", help="SHA-256 of the trust root of the bundle.")
@click.option("--passphrase-file", type=EXISTING_FILE,
              help="File with the passphrase for the site's root key.")  # fmt: skip
def verb(file: str, folder: Path, root_fingerprint: str, passphrase_file: Path | None) -> None:
    """Make the keys by which Primers know each other.

    Do this before the machines of site file FILE are installed.
    """
    wanted = site.load(file)
    if passphrase_file:
        introduction.require_alone(wanted)
    secret = ""
    if passphrase_file:
        words = passphrase.read(passphrase_file).strip()
        secret = passphrase.require(words, str(passphrase_file))
    place = introduction.save(introduction.make(wanted, root_fingerprint, secret), folder)
    names = ", ".join(node.name for node in wanted.primers)
    log.out(
        f"{place}: written; with it {names} know each other.\n"
        "It contains private keys: keep the stick safe, and erase it when the site runs."
    )
