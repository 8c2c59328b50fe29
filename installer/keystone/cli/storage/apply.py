"""`keystone-install storage apply`: create the pool and its datasets."""

from __future__ import annotations

from typing import TextIO

import click

from keystone.cli.storage.options import json_option, spec_option
from keystone.cli.storage.spec import answer, read
from keystone.storage.converge import converge


@click.command("apply")
@spec_option
@json_option
@click.option("--approve", default="", help="Id of the approved plan, from `storage plan`.")
@click.option(
    "--approve-blank", is_flag=True, help="Approve a new pool on disks that are provably blank."
)
def verb(spec_file: TextIO, approve: str, *, as_json: bool, approve_blank: bool) -> None:
    """Create the missing pool and datasets; a second run changes nothing."""
    spec = read(spec_file)
    first, done = converge(spec, None if approve_blank else approve)
    answer(spec, first, done, changed=bool(done), as_json=as_json)
