"""`keystone-install member send`: a snapshot for the host that leads the restore."""

from __future__ import annotations

import shutil
import sys

import click

from keystone.cluster import member


@click.command("send")
@click.argument("what", type=click.Choice(["live", "snapshot", "unfinished"]))
@click.argument("name", default="")
def verb(what: str, name: str) -> None:
    """Write a snapshot to standard output.

    WHAT: live, of the running member; snapshot NAME, one of the ladder; unfinished, the one of the
    restore that was begun here.
    """
    with member.source(what, name).open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()
