"""Options that several verbs of `bundle keys` share."""

from __future__ import annotations

import click

from keystone.cli.options import FOLDER, Renamed

dir_option = click.option(
    "--dir", "--directory", "folder", cls=Renamed, type=FOLDER, required=True,
    help="Folder with the release key and the roots.",
)  # fmt: skip
plain_option = click.option(
    "--no-passphrase", "plain", is_flag=True, help="Do not encrypt the keys; do not ask."
)
