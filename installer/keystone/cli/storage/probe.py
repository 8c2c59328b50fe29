"""`keystone-install storage probe`: show the disks of this host."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.cli.storage.options import json_option
from keystone.storage import plan as storage
from keystone.storage.converge import observe


@click.command("probe")
@json_option
def verb(*, as_json: bool) -> None:
    """Show the disks of this host and what is on them."""
    seen = observe()
    if as_json:
        log.out_json(
            {
                "disks": [asdict(disk) for disk in seen.disks],
                "pools": [{**vars(pool), "properties": dict(pool.properties),
                           "vdevs": [asdict(vdev) for vdev in pool.vdevs]} for pool in seen.pools],
                "datasets": [{**vars(d), "properties": dict(d.properties)} for d in seen.datasets],
            }
        )  # fmt: skip
        return
    log.table(
        ("disk", "serial", "model", "size", "state"),
        [
            (d.path, d.serial, d.model, log.size(d.size), storage.found_on(d) or "blank")
            for d in seen.disks
        ],
    )
