"""`keystone-install bundle split`: a bundle in parts, for media too small for all of it."""

from __future__ import annotations

import re
from pathlib import Path

import click

from keystone import log

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size(click.ParamType[int]):
    """A number of bytes: 4G is 4 x 1024 x 1024 x 1024, as `split -b` and `ls -h` count."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes from text."""
        match = re.fullmatch(r"([0-9]+)([KMGT]?)(i?B)?", str(value))
        if match is None:
            self.fail(f"{value}: give a number with K, M or G, as in 4G", param, ctx)
        return int(match[1]) * UNITS[match[2]]


@click.command("split")
@click.argument("bundle", type=FILE)
@click.option("--size", type=Size(), required=True, help="Of a part's file at most: 4G, 700M.")
@click.option(
    "--parity", type=click.IntRange(0), default=0, show_default=True,
    help="Parts more, as many as may be lost: one for each ten is a good number.",
)  # fmt: skip
@click.option("-o", "--output", "folder", type=FOLDER, help="Folder; that of BUNDLE by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(bundle: Path, size: int, parity: int, folder: Path | None, as_json: bool) -> None:
    """Cut a bundle into parts that are verified alone and joined in any order."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.bundle import parts_split  # noqa: PLC0415 slow to import

    done = parts_split.split(bundle, folder or bundle.parent, size, parity)
    log.info(
        f"{done.data} parts and {done.parity} for parity, at most {log.size(done.size)} each, "
        f"{done.made} written now: {done.parts[0]} to {Path(done.parts[-1]).name}"
    )
    if as_json:
        log.out_json(asdict(done))
