"""`keystone-install trust verify`: check every certificate, key and signature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import EXISTING_FILE, FILE
from keystone.cli.trust.options import directory_option
from keystone.errors import RefusedError
from keystone.hosts import observe
from keystone.install import renewal
from keystone.pki import leaf_files, root_key, seal
from keystone.pki import tree as pki
from keystone.site import model as site


@click.command("verify")
@click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    help="The site file.  [default: that of the site installed here]",
)
@click.option(
    "--root-key", "key_file", type=EXISTING_FILE,
    help="Also check that this file is the key of this tree's root.",
)  # fmt: skip
@click.option(
    "--passphrase-file", type=FILE,
    help="Passphrase of --root-key; by default the site file's, else typed.",
)  # fmt: skip
@directory_option
def verb(
    site_file: Path | None, key_file: Path | None, passphrase_file: Path | None, directory: Path
) -> None:
    """Check every certificate, key, signature and the log. Exit code 7 when one is invalid."""
    wanted = site.load(site_file or site.installed())
    wrong = pki.verify(wanted, directory, placed=_here(wanted))
    if key_file and (directory / root_key.CERTIFICATE).exists():
        given = str(passphrase_file or wanted.trust.passphrase_file)
        trust = replace(wanted.trust, root_key_file=str(key_file), passphrase_file=given)
        wrong += root_key.compare(directory, key_file, root_key.passphrase_of(trust))
    if wrong:
        lines = "\n".join(f"  {line}" for line in dict.fromkeys(wrong))
        raise RefusedError(
            f"the trust tree is invalid:\n{lines}",
            hint="trust init replaces missing and invalid leaf certificates; find the cause of "
            "any other finding yourself",
        )
    log.info("Every certificate, key and signature is valid, and the log is intact")
    _say_sealed(wanted)
    if key_file:
        log.info(f"{key_file}: the key of this site's root")
    if reminder := root_key.reminder(wanted, directory):
        log.warn(reminder)


def _say_sealed(wanted: site.Site) -> None:
    """Say whether the keys on this Primer's disk are sealed; nothing on any other machine."""
    found = seal.record()
    if found is None and _here(wanted) is not None:
        log.warn("the keys on this Primer are not sealed: whoever has its disk has them")
    if found is not None:
        log.info(f"The keys on this Primer are sealed: {' or '.join(found.peers)} opens them")
        for path in found.paths:
            if not Path(path).is_symlink():
                log.warn(f"{path}: in plain text; seal it: keystone-install trust seal")


def _here(wanted: site.Site) -> leaf_files.Placed | None:
    """Return the certificates and keys of this machine, None if it is no installed Primer."""
    here = observe.local_addresses()
    for node in wanted.primers:
        if str(node.address) in here and (found := renewal.files(node)):
            return {node.name: found}
    return None
