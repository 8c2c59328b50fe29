"""`keystone-install image converge`: `image build` runs it in the tree that it makes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone.cli.options import EXISTING_FOLDER
from keystone.image import converge as converging


@click.command("converge", hidden=True)
@click.option("--logs", type=EXISTING_FOLDER, required=True, help="Folder for Ansible's log.")
def verb(logs: Path) -> None:
    """Apply the roles from standard input to the tree that `image build` runs this in."""
    converging.here(sys.stdin.read(), logs)
