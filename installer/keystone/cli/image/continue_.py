"""`keystone-install image continue`: continue after the first start from disk."""

from __future__ import annotations

import click

from keystone.appliance import first_start


@click.command("continue")
def verb() -> None:
    """Continue the installation after the first start from disk.

    The first Primer installs the site, a worker joins it.
    """
    first_start.main()
