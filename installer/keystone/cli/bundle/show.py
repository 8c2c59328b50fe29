"""`keystone-install bundle show`: print a report about the content of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report import page, preview, report
from keystone.bundle.report.text import print_report
from keystone.cli.options import FILE, json_option


@click.command("show")
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="An older bundle: show what is new since then.")
@click.option("--html", type=FILE, help="Write the report as one HTML file.")
@json_option
def verb(file: Path, against: Path | None, html: Path | None, as_json: bool) -> None:
    """Show sizes, licences and shared content of a bundle. Does not verify it: see `verify`."""
    made = report.make(preview.load(file), preview.load(against) if against else None)
    if html:
        page.write(made, html)
        log.info(f"{html}: written")
    if as_json:
        log.out_json(made.as_document())
    elif not html:
        print_report(made)
