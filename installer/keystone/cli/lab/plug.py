"""`keystone-install lab plug`: plug a stick into a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from keystone import log
from keystone.cli.lab.machines import running
from keystone.cli.lab.options import machine_argument, name_option


@click.command("plug")
@name_option
@machine_argument
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
def verb(name: str, machine: str, files: Sequence[str]) -> None:
    """Plug a read-only stick with FILES into MACHINE."""
    paths = [Path(file).resolve() for file in files]
    log.out(running(name, machine).carry_in(paths))
