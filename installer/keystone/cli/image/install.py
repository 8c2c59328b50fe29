"""`keystone-install image install`: a machine becomes what a file says it is."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.appliance import discover, unattended
from keystone.cli.options import plan_option
from keystone.errors import KeystoneError
from keystone.files import write_whole


@click.command("install")
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), help="The site file, for a Primer."
)
@click.option(
    "--join", "join_file", type=click.Path(path_type=Path), help="join.yaml, for a worker."
)
@plan_option
@click.option("--restart", is_flag=True, help="Start from the disk when it is written.")
def verb(site_file: Path | None, join_file: Path | None, *, plan_only: bool, restart: bool) -> None:
    """Make this machine, started from a medium, the Primer or worker that a file says it is.

    Without --site and --join both files are looked for on the medium and on sticks.
    """
    try:
        unattended.main(site_file, join_file, plan_only=plan_only, restart=restart)
    except (KeystoneError, OSError) as error:
        if restart:  # nobody is at hand: whoever comes to a console is told
            why = discover.reason(error) if isinstance(error, KeystoneError) else str(error)
            write_whole(discover.REFUSED, why.encode(), 0o644)
        raise
