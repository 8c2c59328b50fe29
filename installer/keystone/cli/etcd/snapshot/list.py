"""`keystone-install etcd snapshot list`: the snapshots on this Primer."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import FOLDER, json_option
from keystone.cluster import snapshot_files


@click.command("list")
@click.option("--dir", "folder", type=FOLDER, default=snapshot_files.FOLDER, show_default=True,
              help="Where the snapshots are.")  # fmt: skip
@json_option
def verb(folder: Path, as_json: bool) -> None:
    """List the snapshots on this Primer, the newest first."""
    found = tuple(reversed(snapshot_files.listed(folder)))
    if as_json:
        log.out_json([{**vars(one), "file": snapshot_files.path(one, folder)} for one in found])
        return
    now = dt.datetime.now(dt.UTC)
    log.table(
        ("snapshot", "taken (UTC)", "age", "revision", "size", "etcd"),
        [
            (
                one.name,
                f"{one.taken:%Y-%m-%d %H:%M:%S}",
                log.duration((now - one.taken).total_seconds()),
                one.revision,
                log.size(one.size),
                one.etcd,
            )
            for one in found
        ],
    )
