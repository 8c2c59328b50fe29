"""`keystone-install store publish`: publish the content of the store under its names."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.cli.store.options import store_option
from keystone.store import publish as publishing


@click.command("publish")
@store_option
@json_option
def verb(store: Path, as_json: bool) -> None:
    """Make registry, apt repositories and files match the store."""
    done = publishing.publish(store)
    log.info(f"{store}: {log.count(done.made, 'name')} published, {done.removed} removed")
    if as_json:
        log.out_json({"changed": done.changed, "made": done.made, "removed": done.removed})
