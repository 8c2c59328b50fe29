"""`keystone-install backup ...`: the sealed backup of a site, and the way back from it."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "create": "Seal a backup of this site now, and copy it out of the site.",
    "fetch": "Copy the backup NAME, as `backup list` shows it, to a file here.",
    "keys": "Make the key pair that backups are sealed to.",
    "list": "List the backups in every place of the site file, the newest first.",
    "open": "Bring trust tree, site file and snapshot of a lost site to this blank machine.",
    "show": "Show what a backup contains.",
    "verify": "Open a backup, check everything in it, and restore its snapshot for trial.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES if name != "keys"} | {
    "keys": f"{__name__}.keys:group"
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Make sealed backups of a site, and bring a lost site back from one."""
