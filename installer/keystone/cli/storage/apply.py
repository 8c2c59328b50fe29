"""`keystone-install storage apply`: the pool and its datasets are made."""

from __future__ import annotations

from typing import TextIO

import click

from keystone.cli.storage.options import json_option, spec_option
from keystone.cli.storage.spec import answer, read
from keystone.storage.converge import converge


@click.command("apply")
@spec_option
@json_option
@click.option("--approve", default="", help="The plan id that `plan` showed.")
@click.option("--approve-blank", is_flag=True, help="A pool may be made on provably blank disks.")
def verb(spec_file: TextIO, approve: str, *, as_json: bool, approve_blank: bool) -> None:
    """Make what is missing; a second run makes nothing."""
    spec = read(spec_file)
    first, done = converge(spec, None if approve_blank else approve)
    answer(spec, first, done, changed=bool(done), as_json=as_json)
