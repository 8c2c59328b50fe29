"""`keystone-install backup open`: bring a lost site back to a blank machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from keystone import log
from keystone.backup import opened
from keystone.backup.manifest import Manifest
from keystone.cli.backup.options import key_option, opening
from keystone.cli.backup.show import lines
from keystone.cli.options import EXISTING_FILE, FOLDER, passphrase_option
from keystone.errors import RefusedError, UsageError
from keystone.lockfile import only_one
from keystone.site import model as site

LOCK = Path("/run/keystone-backup-open.lock")


@click.command("open")
@click.argument("file", type=EXISTING_FILE)
@key_option
@passphrase_option
@click.option("--site-root", metavar="SHA256",
              help="The site's root, as you noted it; else it is shown and asked.")  # fmt: skip
@click.option("--older", is_flag=True, help="Open it although newer data is known.")
@click.option("--into", "folder", type=FOLDER,
              help="Only unpack it into this new folder, for a person.")  # fmt: skip
def verb(
    file: Path, key_file: Path, passphrase_file: Path | None, site_root: str | None, older: bool,
    folder: Path | None,
) -> None:  # fmt: skip
    """Bring trust tree, site file and snapshot of a lost site to this blank machine.

    Run it as root on the machine that will be the first Primer. Everything is checked before
    anything is placed. Then run keystone-install with the bundle: it installs the same site, with
    the same authorities, and etcd comes back with the snapshot. An interrupted run may be repeated.
    """
    identity = opening(key_file, passphrase_file)
    if folder is not None:
        _into(file, identity, folder)
        return
    if os.geteuid() != 0:
        raise UsageError("only root can bring a site back", hint="run it with sudo")
    opened.require_blank()
    with only_one(LOCK, "the opened backup"):
        found = opened.read_in(file, identity, older=older)
        try:
            _confirm(found.manifest, site_root)
        except BaseException:
            if not found.placed:
                opened.give_up()
            raise
        opened.place(found)
    log.info(
        "The site's trust tree and site file are in place. Next, with the bundle of number "
        f"{found.manifest.bundle} or newer:\n"
        f"  keystone-install --bundle offline.tar --site {site.INSTALLED}"
    )


def _into(file: Path, identity: str, folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise RefusedError(f"{folder}: not empty", hint="give a new folder")
    folder.mkdir(mode=0o700, exist_ok=True)
    manifest = opened.unpack(file, identity, folder)
    log.info(f"{folder}: {log.count(len(manifest.files), 'file')}, among them private keys; "
             "remove the folder afterwards")  # fmt: skip


def _confirm(manifest: Manifest, given: str | None) -> None:
    """Compare the site's root with what the operator knows: anybody can seal to a public key."""
    for line in lines(manifest):
        log.info(line)
    if given is not None:
        if given.replace(":", "").lower() != manifest.root:
            raise RefusedError(
                f"the backup is of another site: its root is {manifest.root}, not {given}",
                hint="take the backup of this site; nothing was placed",
            )
        return
    if not sys.stdin.isatty():
        raise RefusedError(
            f"the site's root {manifest.root} must be confirmed, and there is no terminal",
            hint="compare it with your note, then add --site-root SHA256",
        )
    if not click.confirm("Is this the root of your site?", default=False, err=True):
        raise RefusedError("the site's root was not confirmed", hint="nothing was changed")
