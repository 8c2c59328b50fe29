"""`keystone-install lab restore`: restore the whole site to a saved state."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import print_started
from keystone.cli.lab.options import name_option
from keystone.lab.machines import saves
from keystone.lab.machines.lab import Lab


@click.command("restore")
@name_option
@click.argument("what", metavar="NAME")
def verb(name: str, what: str) -> None:
    """Restore the whole site to the state saved as NAME. Later changes are lost."""
    lab = Lab(name)
    print_started(lab, saves.restore(lab, what), f"restored {what}")
