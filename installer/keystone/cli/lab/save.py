"""`keystone-install lab save`: save the state of the whole site under a name."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import print_started
from keystone.cli.lab.options import name_option
from keystone.lab.machines import saves
from keystone.lab.machines.lab import Lab


@click.command("save")
@name_option
@click.argument("what", metavar="NAME")
def verb(name: str, what: str) -> None:
    """Save the state of the whole site as NAME.

    Its machines lose power for a moment and start again.
    """
    lab = Lab(name)
    print_started(lab, saves.save(lab, what), f"saved as {what}")
