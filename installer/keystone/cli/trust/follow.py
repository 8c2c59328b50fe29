"""`keystone-install trust follow`: let this worker trust what the site trusts now."""

from __future__ import annotations

import socket

import click

from keystone.join import follow


@click.command("follow")
@click.option("--primer", "primers", multiple=True, required=True, metavar="ADDRESS",
              help="A Primer to ask; several in the order to try.")  # fmt: skip
def verb(primers: tuple[str, ...]) -> None:
    """Let this worker trust what the site trusts now.

    Its timer does it. Fetch the CAs from a Primer, replace the files here, and get a new
    certificate if the CA of this node's own was replaced.
    """
    follow.follow(primers, socket.gethostname())
