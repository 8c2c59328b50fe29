"""`keystone-install backup create`: seal a backup now."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.cli.backup.options import site_option
from keystone.cli.options import json_option
from keystone.install import backups
from keystone.site import model as site
from keystone.site.backup import Backup, Destination


@click.command("create")
@site_option
@click.option("--to", "folder", type=click.Path(path_type=Path), metavar="FOLDER|stick",
              help="Only there, instead of to the places of the site file.")  # fmt: skip
@click.option("--recipient", "recipients", multiple=True, metavar="age1...",
              help="Seal to these keys, instead of to those of the site file.")  # fmt: skip
@click.option("--keep", type=click.IntRange(1),
              help="Backups that stay there.  [default: the site file's, or 14]")  # fmt: skip
@json_option
def verb(
    site_file: Path | None, folder: Path | None, recipients: tuple[str, ...], keep: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Seal a backup of this site now, and copy it out of the site.

    Run it on a Primer. It has a snapshot of etcd, the trust tree, the keys of service accounts
    and secrets, the site file and the join tokens. Only a recipient can open it. Each copy is read
    back; then old ones are removed.
    """
    wanted = site.load(site_file or site.installed())
    plan = wanted.backup
    if plan is None or folder is not None or recipients:
        plan = _plan(wanted, folder, recipients)
    kept = keep or plan.keep
    sealed, outcomes = backups.make(wanted, plan.recipients, plan.to, kept)
    if as_json:
        log.out_json({
            "name": sealed.manifest.file_name,
            "size": sealed.size,
            "sha256": sealed.sha256,
            "to": [asdict(one) for one in outcomes],
        })  # fmt: skip
    backups.require(outcomes)
    for one in outcomes:
        log.info(f"{one.to}: {sealed.manifest.file_name}, {log.size(sealed.size)}, read back; "
                 f"old ones removed: {one.removed}")  # fmt: skip


def _plan(wanted: site.Site, folder: Path | None, recipients: tuple[str, ...]) -> Backup:
    """Return what the options say, and the site file for the rest."""
    given = recipients if wanted.backup is None or recipients else wanted.backup.recipients
    if folder is None:
        to = backups.required(wanted).to
    elif str(folder) == "stick":
        to = (Destination(stick=True),)
    else:
        to = (Destination(str(folder.absolute())),)
    keep = wanted.backup.keep if wanted.backup else Backup.keep
    return Backup(given, to, keep=keep)
