"""`keystone-install image continue`: the first start of a disk goes on."""

from __future__ import annotations

import click

from keystone.appliance import first_start


@click.command("continue")
def verb() -> None:
    """Go on from a disk's first start: the first Primer to the running site, a worker into it."""
    first_start.main()
