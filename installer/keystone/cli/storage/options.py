"""Options that several verbs of `storage` share."""

from __future__ import annotations

import click

spec_option = click.option(
    "--spec", "spec_file", required=True, type=click.File("r"),
    help="JSON: pool, layout, ashift, serials, datasets; - for standard input.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
