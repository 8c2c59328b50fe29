"""`keystone-install image guided`: install by answering questions on this terminal."""

from __future__ import annotations

import sys

import click

from keystone.appliance.guided import session
from keystone.errors import UsageError


@click.command("guided")
def verb() -> None:
    """Install this machine by answering questions here.

    Saves the answers as a site file, then writes this machine's disk.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "this command needs a terminal",
            hint="to install unattended, put a site file on the medium",
        )
    session.main()
