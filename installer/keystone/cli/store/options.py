"""Options that several verbs of `store` share."""

from __future__ import annotations

import click

from keystone.bundle.model import STORE
from keystone.cli.options import FOLDER

store_option = click.option(
    "--store", type=FOLDER, default=STORE, show_default=True, help="Folder of the store."
)
