"""`keystone-install etcd snapshot take`: a snapshot of etcd, now."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import FOLDER, json_option
from keystone.cluster import snapshot_files
from keystone.install.maintain import site_fingerprint


@click.command("take")
@click.option("--dir", "folder", type=FOLDER, default=snapshot_files.FOLDER, show_default=True,
              help="Where it goes; old ones are removed from the default folder only.")  # fmt: skip
@json_option
def verb(folder: Path, as_json: bool) -> None:
    """Take a snapshot of etcd now."""
    taken = snapshot_files.take(site_fingerprint(), folder, always=True)
    assert taken is not None, "asked for always"
    file = snapshot_files.path(taken, folder)
    if as_json:
        log.out_json({**vars(taken), "file": file})
        return
    log.info(f"{file}: {log.size(taken.size)}, revision {taken.revision}")
