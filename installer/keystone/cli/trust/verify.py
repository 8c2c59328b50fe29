"""`keystone-install trust verify`: every certificate, key and signature is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import EXISTING_FILE, FILE
from keystone.cli.trust.options import directory_option
from keystone.errors import RefusedError
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.site import model as site


@click.command("verify")
@click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    help="The site file.  [default: of the site that is installed here]",
)
@click.option(
    "--root-key", "key_file", type=EXISTING_FILE,
    help="Open this file too: is it the key of this tree's root?",
)  # fmt: skip
@click.option(
    "--passphrase-file", type=FILE,
    help="Opens it; else the site file's, else asked for.",
)  # fmt: skip
@directory_option
def verb(
    site_file: Path | None, key_file: Path | None, passphrase_file: Path | None, directory: Path
) -> None:
    """Check every certificate, key, signature and the log; exit 7 when something is wrong."""
    wanted = site.load(site_file or site.installed())
    wrong = pki.verify(wanted, directory)
    if key_file and (directory / root_key.CERTIFICATE).exists():
        given = str(passphrase_file or wanted.trust.passphrase_file)
        trust = replace(wanted.trust, root_key_file=str(key_file), passphrase_file=given)
        wrong += root_key.compare(directory, key_file, root_key.passphrase_of(trust))
    if wrong:
        lines = "\n".join(f"  {line}" for line in dict.fromkeys(wrong))
        raise RefusedError(
            f"the trust tree is not sound:\n{lines}",
            hint="trust init makes missing and invalid leaves; anything else needs a person",
        )
    log.info("Every certificate, key and signature fits, and the log is unbroken")
    if key_file:
        log.info(f"{key_file}: the key of this site's root")
    if said := root_key.reminder(wanted, directory):
        log.warn(said)
