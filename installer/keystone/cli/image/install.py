"""`keystone-install image install`: install this machine as a file describes it."""

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
@click.option("--restart", is_flag=True, help="Restart from the disk after writing it.")
def verb(site_file: Path | None, join_file: Path | None, *, plan_only: bool, restart: bool) -> None:
    """Install this machine as the Primer or worker in a file.

    Start the machine from an installer medium first. Without --site and --join, looks for both
    files on the medium and on sticks.
    """
    try:
        unattended.main(site_file, join_file, plan_only=plan_only, restart=restart)
    except (KeystoneError, OSError) as error:
        if restart:  # unattended: save the reason, and consoles show it
            why = discover.reason(error) if isinstance(error, KeystoneError) else str(error)
            write_whole(discover.REFUSED, why.encode(), 0o644)
        raise
