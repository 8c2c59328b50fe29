"""`keystone-install trust`: the site's certificates."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.cli.options import Renamed
from keystone.errors import HostError, RefusedError

if TYPE_CHECKING:
    from keystone.pki.plan import TrustFacts
    from keystone.site.model import Site

DIRECTORY = Path("/var/lib/keystone/pki")

_directory = click.option(
    "--dir", "--directory", "directory", cls=Renamed,
    type=click.Path(path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Where the trust tree is.",
)  # fmt: skip


@click.group()
def group() -> None:
    """The site's certificates: who vouches for whom, and until when."""


@group.command()
@_directory
@click.option("--json", "as_json", is_flag=True, help="For machines; times in ISO 8601, UTC.")
def show(directory: Path, as_json: bool) -> None:
    """List every certificate of the tree, with its end and its fingerprint."""
    from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow to import

    entries = pki.tree(directory)
    if as_json:
        log.out_json(
            [{**vars(entry), "not_after": entry.not_after.isoformat()} for entry in entries]
        )
        return
    now = dt.datetime.now(dt.UTC)
    log.table(
        ("certificate", "issuer", "until (UTC)", "days left", "SHA-256"),
        [
            (
                entry.path,
                entry.issuer.partition(",")[0].removeprefix("CN="),
                f"{entry.not_after:%Y-%m-%d %H:%M}",
                (entry.not_after - now).days,
                entry.fingerprint[:16],
            )
            for entry in entries
        ],
    )


@group.command()
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), required=True, help="The site file."
)
@click.option(
    "--new-site", is_flag=True,
    help="Primers that do not answer have never been installed: make authorities all the same.",
)  # fmt: skip
@_directory
def init(site_file: Path, directory: Path, *, new_site: bool) -> None:
    """Make the trust tree, or finish one that was begun; a complete one stays as it is."""
    from keystone.pki import root_key  # noqa: PLC0415
    from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow
    from keystone.site import model as site  # noqa: PLC0415 cryptography is slow

    wanted = site.load(site_file)
    found = pki.observe(wanted, directory)
    if found.incomplete or not found.keys:
        _require_new(wanted, found, new_site=new_site)
    file = Path(wanted.trust.root_key_file)
    if pki.init(wanted, directory, file, lambda: root_key.passphrase_of(wanted.trust)):
        log.info(f"The trust tree is in {directory}")
    else:
        log.info(f"Nothing to do: the trust tree in {directory} is complete")
    _remind(root_key.reminder(wanted, directory))


@group.command()
@click.option(
    "--site",
    "site_file",
    type=click.Path(path_type=Path),
    help="The site file.  [default: of the site that is installed here]",
)
@click.option(
    "--root-key", "key_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Open this file too: is it the key of this tree's root?",
)  # fmt: skip
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path, dir_okay=False),
    help="Opens it; else the site file's, else asked for.",
)  # fmt: skip
@_directory
def verify(
    site_file: Path | None, key_file: Path | None, passphrase_file: Path | None, directory: Path
) -> None:
    """Check every certificate, key, signature and the log; exit 7 when something is wrong."""
    from keystone.pki import root_key  # noqa: PLC0415
    from keystone.pki import tree as pki  # noqa: PLC0415 cryptography is slow
    from keystone.site import model as site  # noqa: PLC0415 cryptography is slow

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
    _remind(root_key.reminder(wanted, directory))


def _require_new(wanted: Site, found: TrustFacts, *, new_site: bool) -> None:
    """Authorities and the key of secrets are made once.

    Raises RefusedError where a Primer has some, or does not say.
    """
    from keystone.hosts import observe  # noqa: PLC0415 slow to import
    from keystone.install import reach, standing  # noqa: PLC0415 slow to import

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


def _remind(said: str) -> None:
    if said:
        log.warn(said)
