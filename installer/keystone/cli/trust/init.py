"""`keystone-install trust init`: make the trust tree."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import EXISTING_FOLDER
from keystone.cli.trust.options import directory_option
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.install import reach, standing
from keystone.pki import brought, root_key
from keystone.pki import tree as pki
from keystone.pki.plan import TrustFacts
from keystone.site import model as site


@click.command("init")
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), required=True, help="The site file."
)
@click.option(
    "--new-site", is_flag=True,
    help="Make authorities even if Primers do not answer, because they were never installed.",
)  # fmt: skip
@click.option(
    "--from", "folder", type=EXISTING_FOLDER,
    help="Use the issuing CAs of your own PKI in this folder: for each NAME.crt and NAME.key, and "
    "root.crt, which signed them.",
)  # fmt: skip
@directory_option
def verb(site_file: Path, directory: Path, folder: Path | None, *, new_site: bool) -> None:
    """Make the trust tree, or finish an incomplete one. A complete tree is not changed."""
    wanted = site.load(site_file)
    given = _brought(wanted, folder) if folder else None
    found = pki.observe(wanted, directory)
    if found.incomplete or not found.keys:
        _require_new(wanted, found, new_site=new_site)
    file = Path(wanted.trust.root_key_file)
    passphrase = partial(root_key.passphrase_of, wanted.trust)
    if pki.init(wanted, directory, file, passphrase, given=given):
        log.info(f"The trust tree is in {directory}")
    else:
        log.info(f"Nothing to do: the trust tree in {directory} is complete")
    if reminder := root_key.reminder(wanted, directory):
        log.warn(reminder)


def _brought(wanted: site.Site, folder: Path) -> brought.Given:
    now = dt.datetime.now(dt.UTC)
    return brought.read(folder, wanted.trust.certificate_lifetime, now)


def _require_new(wanted: site.Site, found: TrustFacts, *, new_site: bool) -> None:
    """Make sure that no Primer has authorities or a secrets key yet: a site makes them once.

    Raises RefusedError when a Primer has some, or does not answer (unless `new_site`).
    """
    with log.step("check whether a Primer belongs to a site already"):
        seen, silent = observe.probe_each(reach.known(wanted))
        silent |= {
            node.name: HostError(f"{node.address}: its SSH host key is not known")
            for node in wanted.primers
            if node.name not in seen.keys() | silent.keys()
        }
    findings = (
        *standing.authorities(found, seen),
        *standing.secrets(found, seen, wanted.primers[0].name),
    )
    refused = [finding.line() for finding in findings]
    if refused:
        raise RefusedError("\n".join(refused), hint="nothing was changed")
    if silent and not new_site:
        lines = "\n".join(f"  {name}: {error.message}" for name, error in silent.items())
        raise RefusedError(
            f"these Primers did not answer, so they may have authorities or keys of site "
            f"{wanted.name}:\n{lines}",
            hint="make them reachable and run again; or, if this site was never installed, "
            "add --new-site",
        )
