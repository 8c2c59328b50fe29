"""`keystone-install bundle split`: split a bundle for media that are too small for all of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.bundle.parts import split as parts_split
from keystone.cli.options import FILE, FOLDER, Size, json_option


@click.command("split")
@click.argument("bundle", type=FILE)
@click.option("--size", type=Size(), required=True, help="Largest size of a part: 4000M, 1.5G.")
@click.option(
    "--parity", type=click.IntRange(0), default=0, show_default=True,
    help="Parity parts: as many parts may be lost. One for each ten parts is a good number.",
)  # fmt: skip
@click.option("-o", "--output", "folder", type=FOLDER, help="Folder; by default that of BUNDLE.")
@json_option
def verb(bundle: Path, size: int, parity: int, folder: Path | None, as_json: bool) -> None:
    """Split a bundle into parts that can be verified alone and joined in any order."""
    done = parts_split.split(bundle, folder or bundle.parent, size, parity)
    log.info(
        f"{log.count(done.data, 'part')} and {log.count(done.parity, 'parity part')}, at most "
        f"{log.size(done.size)} each, {done.made} written now: "
        f"{done.parts[0]} to {Path(done.parts[-1]).name}"
    )
    if as_json:
        log.out_json(asdict(done))
