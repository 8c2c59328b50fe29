"""`keystone-install site schema`: print the JSON Schema of site files."""

from __future__ import annotations

import click

from keystone import log
from keystone.site import model as site


@click.command("schema")
def verb() -> None:
    """Print the JSON Schema of site files."""
    log.out_json(site.schema())
