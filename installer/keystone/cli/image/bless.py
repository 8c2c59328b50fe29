"""`keystone-install image bless`: the running version is good."""

from __future__ import annotations

import click

from keystone import log
from keystone.appliance import upgrade as upgrading


@click.command("bless")
def verb() -> None:
    """Call the version that runs good; the machine does it by itself when it came up well."""
    log.info(upgrading.bless())
