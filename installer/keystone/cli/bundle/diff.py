"""`keystone-install bundle diff`: what is new in one bundle against another."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(name="diff")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(old: Path, new: Path, as_json: bool) -> None:
    """Items that came, went or changed between two bundles, and how much is to be carried."""
    from keystone.bundle.report.compare import compare  # noqa: PLC0415 slow to import
    from keystone.bundle.report.preview import look  # noqa: PLC0415
    from keystone.bundle.report.text import print_comparison  # noqa: PLC0415

    found = compare(look(old).bundle, look(new).bundle)
    if as_json:
        log.out_json(found.as_document())
    else:
        print_comparison(found)
