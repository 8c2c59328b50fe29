"""`keystone-install bundle diff`: compare the items of two bundles."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report import preview
from keystone.bundle.report.compare import compare
from keystone.bundle.report.text import print_comparison
from keystone.cli.options import FILE, json_option


@click.command("diff")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@json_option
def verb(old: Path, new: Path, as_json: bool) -> None:
    """List items added, removed or changed between two bundles, and the bytes to carry."""
    found = compare(preview.load(old).bundle, preview.load(new).bundle)
    if as_json:
        log.out_json(found.as_document())
    else:
        print_comparison(found)
