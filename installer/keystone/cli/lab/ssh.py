"""`keystone-install lab ssh`: open a shell on a machine."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from keystone import run
from keystone.cli.lab.machines import machine_of
from keystone.cli.lab.options import machine_argument, name_option


@click.command("ssh", context_settings={"ignore_unknown_options": True})
@name_option
@machine_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def verb(name: str, machine: str, command: Sequence[str]) -> None:
    """Open a shell on MACHINE, or run COMMAND there (after --)."""
    argv = machine_of(name, machine).shell_argv(command)
    run.replace(argv, {"TERM": os.environ.get("TERM", "dumb")})
