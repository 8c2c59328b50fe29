"""`keystone-install node-identity place`: install the certificate for kubelet."""

from __future__ import annotations

import json
import sys

import click

from keystone.errors import UsageError
from keystone.join import identity as join_identity

_LIMIT = 64 * 1024


@click.command("place")
def verb() -> None:
    """Install the certificate and authority from standard input (JSON)."""
    try:
        fields = json.loads(sys.stdin.buffer.read(_LIMIT))
        identity = join_identity.Identity(fields["certificate"], fields["authority"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "standard input: not a JSON object with certificate and authority"
        ) from error
    join_identity.place(identity)
