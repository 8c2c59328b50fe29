"""`keystone-install trust init`: the trust tree is made."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.trust.options import directory_option
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.install import reach, standing
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.pki.plan import TrustFacts
from keystone.site import model as site


@click.command("init")
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), required=True, help="The site file."
)
@click.option(
    "--new-site", is_flag=True,
    help="Primers that do not answer have never been installed: make authorities all the same.",
)  # fmt: skip
@directory_option
def verb(site_file: Path, directory: Path, *, new_site: bool) -> None:
    """Make the trust tree, or finish one that was begun; a complete one stays as it is."""
    wanted = site.load(site_file)
    found = pki.observe(wanted, directory)
    if found.incomplete or not found.keys:
        _require_new(wanted, found, new_site=new_site)
    file = Path(wanted.trust.root_key_file)
    if pki.init(wanted, directory, file, lambda: root_key.passphrase_of(wanted.trust)):
        log.info(f"The trust tree is in {directory}")
    else:
        log.info(f"Nothing to do: the trust tree in {directory} is complete")
    if said := root_key.reminder(wanted, directory):
        log.warn(said)


def _require_new(wanted: site.Site, found: TrustFacts, *, new_site: bool) -> None:
    """Authorities and the key of secrets are made once.

    Raises RefusedError where a Primer has some, or does not say.
    """
    with log.step("look whether a Primer belongs to a site already"):
        seen, silent = observe.probe_each(reach.known(wanted))
        silent |= {
            node.name: HostError(f"{node.address}: nobody vouches for its SSH host key")
            for node in wanted.primers
            if node.name not in seen.keys() | silent.keys()
        }
    findings = (
        *standing.authorities(found, seen),
        *standing.secrets(found, seen, wanted.primers[0].name),
    )
    refused = [finding.line() for finding in findings]
    if refused:
        raise RefusedError("\n".join(refused), hint="nothing was made")
    if silent and not new_site:
        lines = "\n".join(f"  {name}: {error.message}" for name, error in silent.items())
        raise RefusedError(
            f"not known whether these Primers have authorities or keys of site {wanted.name}:"
            f"\n{lines}",
            hint="make them answer and run again; nothing of this site was ever installed: "
            "--new-site",
        )
