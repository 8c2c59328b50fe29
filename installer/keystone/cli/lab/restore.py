"""`keystone-install lab restore`: the whole site becomes what was saved."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import print_started
from keystone.cli.lab.options import name_option
from keystone.lab import saves
from keystone.lab.machines import Lab


@click.command("restore")
@name_option
@click.argument("what", metavar="NAME")
def verb(name: str, what: str) -> None:
    """Bring the whole site back to what was saved as NAME; what came after it is lost."""
    lab = Lab(name)
    print_started(lab, saves.restore(lab, what), f"as it was saved as {what}")
