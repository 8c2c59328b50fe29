"""`keystone-install storage plan`: show what `storage apply` would do."""

from __future__ import annotations

from typing import TextIO

import click

from keystone.cli.storage.options import json_option, spec_option
from keystone.cli.storage.spec import answer, read
from keystone.storage import plan as storage
from keystone.storage import zfs
from keystone.storage.converge import observe


@click.command("plan")
@spec_option
@json_option
def verb(spec_file: TextIO, *, as_json: bool) -> None:
    """Show what `apply` would do; change nothing."""
    spec = read(spec_file)
    seen = observe()
    actions = storage.plan(spec, seen, zfs.read_intent())
    answer(spec, seen, actions, changed=bool(actions), as_json=as_json)
