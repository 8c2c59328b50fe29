"""`keystone-install etcd snapshot verify`: prove that a snapshot can be restored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import EXISTING_FILE, json_option
from keystone.cluster import snapshot_files
from keystone.install import maintain


@click.command("verify")
@click.argument("file", type=EXISTING_FILE)
@json_option
def verb(file: Path, as_json: bool) -> None:
    """Restore FILE into a scratch member, which nothing else sees, and read it.

    Needs free space of twice its size in /var/tmp. On a Primer it must be of this site.
    """
    size, digest = snapshot_files.check(file)
    site = maintain.site_fingerprint() if maintain.ROOT.exists() else ""
    with tempfile.TemporaryDirectory(prefix="keystone-snapshot-", dir="/var/tmp") as folder:
        keys = snapshot_files.try_restore(file.absolute(), Path(folder) / "trial", site)
    if as_json:
        log.out_json({"file": file, "size": size, "sha256": digest, "keys": keys})
        return
    log.info(f"{file}: can be restored: {keys} keys")
