"""`keystone-install image guided`: an installation by questions on this terminal."""

from __future__ import annotations

import sys

import click

from keystone.appliance.guided import session
from keystone.errors import UsageError


@click.command("guided")
def verb() -> None:
    """Ask, on this terminal, what a site file would say; save it, and write this machine's disk."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("this asks on a terminal", hint="unattended: a site file on the medium")
    session.main()
