"""`keystone-install bundle split`: a bundle in parts, for media too small for all of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.bundle.parts import split as parts_split
from keystone.cli.options import FILE, FOLDER, Size, json_option


@click.command("split")
@click.argument("bundle", type=FILE)
@click.option("--size", type=Size(), required=True, help="Of a part's file at most: 4000M, 1.5G.")
@click.option(
    "--parity", type=click.IntRange(0), default=0, show_default=True,
    help="Parts more, as many as may be lost: one for each ten is a good number.",
)  # fmt: skip
@click.option("-o", "--output", "folder", type=FOLDER, help="Folder; that of BUNDLE by default.")
@json_option
def verb(bundle: Path, size: int, parity: int, folder: Path | None, as_json: bool) -> None:
    """Cut a bundle into parts that are verified alone and joined in any order."""
    done = parts_split.split(bundle, folder or bundle.parent, size, parity)
    log.info(
        f"{done.data} parts and {done.parity} for parity, at most {log.size(done.size)} each, "
        f"{done.made} written now: {done.parts[0]} to {Path(done.parts[-1]).name}"
    )
    if as_json:
        log.out_json(asdict(done))
