"""`keystone-install node-identity`: run over ssh on Primers that carry pods only."""

from __future__ import annotations

import json
import sys

import click

from keystone import log
from keystone.errors import UsageError
from keystone.join import identity as join_identity

_LIMIT = 64 * 1024


@click.group("node-identity")
def group() -> None:
    """Ask for this host's identity as a node, and put it where kubelet looks."""


@group.command()
@click.argument("name")
def request(name: str) -> None:
    """Print the request for a certificate, PEM; the key stays here."""
    log.out(join_identity.made(name).strip())


@group.command()
@click.argument("name")
def held(name: str) -> None:
    """Print whether this host has that name's identity already: yes or no."""
    log.out("yes" if join_identity.held(name) else "no")


@group.command()
def place() -> None:
    """Take certificate and authority from standard input, JSON."""
    try:
        fields = json.loads(sys.stdin.buffer.read(_LIMIT))
        identity = join_identity.Identity(fields["certificate"], fields["authority"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError("standard input is not what the join answers") from error
    join_identity.place(identity)
