"""Options that all verbs of `trust` share."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.cli.options import Renamed

DIRECTORY = Path("/var/lib/keystone/pki")

directory_option = click.option(
    "--dir", "--directory", "directory", cls=Renamed,
    type=click.Path(path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Folder of the trust tree.",
)  # fmt: skip
