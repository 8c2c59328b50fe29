"""`keystone-install image write`: write the system that runs from a medium to a disk."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.appliance import write as writing
from keystone.cli.options import json_option, plan_option
from keystone.errors import RefusedError
from keystone.hosts import observe


@click.command("write")
@click.option("--disk", "serial", required=True, help="Serial number of the disk to write.")
@plan_option
@click.option("--yes", is_flag=True, help="Do not ask for approval.")
@json_option
def verb(serial: str, *, plan_only: bool, yes: bool, as_json: bool) -> None:
    """Write the system of a medium to a blank disk.

    The medium is the one that this machine was started from.
    """
    now = writing.observe()
    seen = observe.disks()
    begun = writing.begun(seen, serial)
    wanted = writing.plan(now, seen, serial, writing.slot_of(now, seen, serial), begun=begun)
    log.info(wanted.describe())
    if as_json:
        log.out_json({**asdict(wanted), "done": wanted.done})
    if plan_only:
        return
    writing.check_medium(now)
    if (
        not (wanted.done or yes)
        and click.prompt("Type the disk's serial number to write it", default="") != serial
    ):
        raise RefusedError(
            "writing was not approved", hint="type the disk's serial number, or pass --yes"
        )
    writing.write(now, wanted)
    log.info("Done: remove the medium and restart.")
