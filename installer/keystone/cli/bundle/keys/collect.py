"""`keystone-install bundle keys collect`: collect the holders' signatures of a proposed root."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.cli.bundle.keys import render
from keystone.cli.bundle.keys.options import dir_option
from keystone.cli.options import FILE, json_option
from keystone.packager.keys import ceremony, roots


@click.command("collect")
@dir_option
@click.argument("copies", metavar="[PENDING...]", type=FILE, nargs=-1)
@json_option
def verb(folder: Path, copies: tuple[Path, ...], as_json: bool) -> None:
    """Collect the signatures of a proposed root.

    The root is valid when enough holders have signed a copy.
    """
    with roots.locked(folder):
        state = ceremony.collect(folder, copies)
    render.progress(state, folder, as_json=as_json)
