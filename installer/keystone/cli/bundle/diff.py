"""`keystone-install bundle diff`: what is new in one bundle against another."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report.compare import compare
from keystone.bundle.report.preview import look
from keystone.bundle.report.text import print_comparison
from keystone.cli.options import FILE, json_option


@click.command("diff")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@json_option
def verb(old: Path, new: Path, as_json: bool) -> None:
    """Items that came, went or changed between two bundles, and how much is to be carried."""
    found = compare(look(old).bundle, look(new).bundle)
    if as_json:
        log.out_json(found.as_document())
    else:
        print_comparison(found)
