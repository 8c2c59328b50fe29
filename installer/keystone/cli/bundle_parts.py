"""`keystone-install bundle split` and `join`, and `bundle verify` of parts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = click.Path(path_type=Path, dir_okay=False)
ANY = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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


@click.command()
@click.argument("bundle", type=FILE)
@click.option("--size", type=Size(), required=True, help="Of a part's file at most: 4G, 700M.")
@click.option(
    "--parity", type=click.IntRange(0), default=0, show_default=True,
    help="Parts more, as many as may be lost: one for each ten is a good number.",
)  # fmt: skip
@click.option("-o", "--output", "folder", type=ANY, help="Folder; that of BUNDLE by default.")
@json_option
def split(bundle: Path, size: int, parity: int, folder: Path | None, as_json: bool) -> None:
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


@click.command()
@click.argument("source", metavar="PART|FOLDER...", type=ANY, nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The bundle to write, or - for a pipe.")
@json_option
def join(source: tuple[Path, ...], output: str, as_json: bool) -> None:
    """Make the bundle of its parts, from several media, in any order, at once or one by one."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.bundle import parts_join  # noqa: PLC0415 slow to import

    found = parts_join.gather(source)
    if output == "-":
        if as_json:
            raise click.UsageError("--json and -o - would both write to standard output")
        done = parts_join.join_to_pipe(found, sys.stdout.buffer)
    else:
        done = parts_join.join_to_file(found, Path(output))
    repaired = f", {log.size(done.repaired)} of it out of parity" if done.repaired else ""
    log.info(f"{output}: {log.size(done.size)}{repaired}; bundle {done.bundle}")
    if as_json:
        log.out_json(asdict(done))


def verify(
    files: tuple[Path, ...],
    fingerprint: str | None,
    confirm: Callable[[str], bool],
    *,
    as_json: bool,
) -> bool:
    """`bundle verify` of parts; False when the one file given is no part.

    Raises DamagedBundleError when a part is damaged.
    """
    from keystone.bundle import parts, parts_join, parts_verify, trust  # noqa: PLC0415

    if len(files) == 1 and not files[0].is_dir() and not parts.is_part(files[0]):
        return False
    found = parts_join.gather(files, strict=True)
    report = parts_verify.verify(found, trust.host_pin(fingerprint=fingerprint, confirm=confirm))
    rows = [
        (part.file, f"{part.part} of {report.data}+{report.parity}",
         "damaged" if part.chunks else "whole")
        for part in report.parts
    ]  # fmt: skip
    if as_json:
        log.out_json(parts_verify.as_json(report))
    else:
        log.table(("file", "part", ""), rows, title=f"bundle {report.bundle}")
    if report.missing:
        log.info(f"not given: part {', '.join(map(str, report.missing))}")
    log.info(f"enough to join: {'yes' if report.joinable else 'no'}")
    if report.damaged:
        names = [name for part in report.parts for name in part.damaged]
        raise DamagedBundleError(
            "damaged:\n  " + "\n  ".join(names[: parts_join.SHOWN]),
            hint="join works around it" if report.joinable else "copy the damaged parts again",
        )
    return True
