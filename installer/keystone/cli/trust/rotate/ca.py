"""`keystone-install trust rotate ca`: replace an issuing CA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from keystone.cli.options import EXISTING_FILE, EXISTING_FOLDER
from keystone.cli.trust.rotate import options
from keystone.install import rotate
from keystone.pki.authorities import ISSUING


@click.command("ca")
@click.argument("name", type=click.Choice(tuple(ISSUING)))
@click.option("--root-key", "key_file", type=EXISTING_FILE,
              help="File of the offline root's key, which signs the new CA.  "
              "[default: rootKeyFile of the site file]")  # fmt: skip
@click.option("--from", "folder", type=EXISTING_FOLDER,
              help="Folder with NAME.crt and NAME.key of your own PKI, and root.crt.")  # fmt: skip
@options.passphrase_option
@options.stages
def verb(
    name: str, key_file: Path | None, folder: Path | None, passphrase_file: Path | None,
    **stages: bool,
) -> None:  # fmt: skip
    """Replace one of the issuing CAs.

    In three stages: everyone trusts both, the new one signs, the old one is dropped. Runs on
    any Primer; all Primers must answer. Each stage is safe to stop in, and the same command
    goes on from there. Programs restart one host after another.
    """
    chosen = rotate.Options(
        name, str(key_file or ""), str(passphrase_file or ""), brought=str(folder or "")
    )
    options.start(replace(chosen, **stages))  # type: ignore[arg-type]
