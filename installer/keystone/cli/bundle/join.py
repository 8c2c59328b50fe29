"""`keystone-install bundle join`: join parts into a bundle."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.bundle.parts import gather
from keystone.bundle.parts import join as parts_join
from keystone.cli.options import FILE_OR_FOLDER, json_option


@click.command("join")
@click.argument("source", metavar="PART|FOLDER...", type=FILE_OR_FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The bundle to write, or - for a pipe.")
@json_option
def verb(source: tuple[Path, ...], output: str, as_json: bool) -> None:
    """Join parts into a bundle, from several media, in any order, at once or one by one."""
    if output != "-" and Path(output).is_dir():
        raise click.UsageError(
            f"{output or '.'} is a folder: name a file, such as {Path(output, 'offline.tar')}"
        )
    found = gather.gather(source)
    if output == "-":
        if as_json:
            raise click.UsageError("--json and -o - would both write to standard output")
        done = parts_join.join_to_pipe(found, sys.stdout.buffer)
    else:
        done = parts_join.join_to_file(found, Path(output))
    repaired = f", {log.size(done.repaired)} of it from parity parts" if done.repaired else ""
    log.info(f"{output}: {log.size(done.size)}{repaired}; bundle {done.bundle}")
    if as_json:
        log.out_json(asdict(done))
