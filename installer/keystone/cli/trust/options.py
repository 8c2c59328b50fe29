"""Options of all verbs about the trust tree."""

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
    help="Where the trust tree is.",
)  # fmt: skip
