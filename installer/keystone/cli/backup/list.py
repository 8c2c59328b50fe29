"""`keystone-install backup list`: the backups in every place of the site file."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.backup import manifest, places
from keystone.cli.backup.options import site_option
from keystone.cli.options import FOLDER, json_option
from keystone.errors import KeystoneError
from keystone.install import backups
from keystone.site import model as site
from keystone.site.backup import Destination


@click.command("list")
@site_option
@click.option("--dir", "folder", type=FOLDER, help="Look into this folder instead.")
@json_option
def verb(site_file: Path | None, folder: Path | None, as_json: bool) -> None:
    """List the backups in every place of the site file, the newest first. Nothing is opened.

    The exit code is that of the first place that cannot be looked at, 8 when it does not answer.
    """
    if folder is not None:
        to: tuple[Destination, ...] = (Destination(str(folder.absolute())),)
    else:
        to = backups.required(site.load(site_file or site.installed())).to
    found: list[tuple[str, manifest.Named]] = []
    silent: list[KeystoneError] = []
    for one in to:
        try:
            with places.opened(one) as place:
                names = map(manifest.named, place.names())
                found += [(str(one), named) for named in names if named]
        except KeystoneError as error:
            silent.append(error)
            log.warn(error.message)
    found.sort(key=lambda row: row[1], reverse=True)
    if as_json:
        log.out_json([{"place": where, **vars(named)} for where, named in found])
    else:
        now = dt.datetime.now(dt.UTC)
        log.table(
            ("place", "backup", "taken (UTC)", "age", "revision"),
            [
                (
                    where,
                    named.name,
                    f"{named.taken:%Y-%m-%d %H:%M:%S}",
                    backups.span(now - named.taken),
                    named.revision,
                )
                for where, named in found
            ],
        )
    if silent:
        raise silent[0]
