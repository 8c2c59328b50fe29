"""`keystone-install backup fetch`: copy a backup from a place of the site file."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.backup import manifest, places
from keystone.cli.backup.options import site_option
from keystone.cli.options import FOLDER
from keystone.errors import HostError, KeystoneError, UsageError
from keystone.files import sync_directory, write_chunks
from keystone.install import backups
from keystone.site import model as site


@click.command("fetch")
@click.argument("name")
@site_option
@click.option("--to", "folder", type=FOLDER, default=Path(), show_default="this folder",
              help="The folder of the copy.")  # fmt: skip
def verb(name: str, site_file: Path | None, folder: Path) -> None:
    """Copy the backup NAME, as `backup list` shows it, to a file here. It stays sealed."""
    if manifest.named(name) is None:
        raise UsageError(f"{name}: not the name of a backup", hint="copy it from: backup list")
    reasons = []
    for one in backups.required(site.load(site_file or site.installed())).to:
        try:
            with places.opened(one) as place:
                if name not in place.names():
                    continue
                write_chunks(folder / name, place.read(name), folder / f".{name}.part", 0o600)
        except KeystoneError as error:
            reasons.append(error.message)
            continue
        sync_directory(folder)
        log.info(f"{folder / name}: copied from {one}")
        return
    raise HostError(f"{name}: in no place that answers", hint="; ".join(reasons))
