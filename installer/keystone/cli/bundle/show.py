"""`keystone-install bundle show`: a report of what is inside."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report import page, preview, report
from keystone.bundle.report.text import print_report
from keystone.cli.options import FILE, json_option


@click.command("show")
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="An older bundle: say what is new.")
@click.option("--html", type=FILE, help="Write the report as one file for a browser.")
@json_option
def verb(file: Path, against: Path | None, html: Path | None, as_json: bool) -> None:
    """What is inside: sizes, licences, what is shared. Looks only; `verify` is what proves it."""
    made = report.make(preview.look(file), preview.look(against) if against else None)
    if html:
        page.write(made, html)
        log.info(f"{html}: written")
    if as_json:
        log.out_json(made.as_document())
    elif not html:
        print_report(made)
