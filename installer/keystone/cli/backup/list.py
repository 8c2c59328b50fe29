"""`keystone-install backup list`: the backups in every place of the site file."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.backup import manifest, places
from keystone.cli.backup.options import site_option
from keystone.cli.options import FOLDER, json_option
from keystone.errors import HostError
from keystone.install import backups
from keystone.site import model as site
from keystone.site.backup import Destination


@click.command("list")
@site_option
@click.option("--dir", "folder", type=FOLDER, help="Look into this folder instead.")
@json_option
def verb(site_file: Path | None, folder: Path | None, as_json: bool) -> None:
    """List the backups in every place of the site file, the newest first. Nothing is opened.

    Exit code 8 when a place does not answer.
    """
    if folder is not None:
        to: tuple[Destination, ...] = (Destination(str(folder.absolute())),)
    else:
        to = backups.required(site.load(site_file or site.installed())).to
    found, silent = [], []
    for one in to:
        try:
            with places.opened(one) as place:
                found += [(str(one), named) for named in _named(place.names())]
        except HostError as error:
            silent.append(error)
            log.warn(f"{one}: {error}")
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


def _named(names: list[str]) -> list[manifest.Named]:
    return sorted((one for name in names if (one := manifest.named(name))), reverse=True)
