"""`keystone-install join`: make this machine a worker."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import IO

import click

from keystone.errors import UsageError
from keystone.join import client, script
from keystone.join.tokens import Token

_TOKEN_LIMIT = 4096


@click.command("join")
@click.option("--server", "servers", multiple=True, required=True, help="https://<primer>:8444")
@click.option(
    "--token-file",
    type=click.File(lazy=False),
    help="File with what `token create` printed on a Primer; - is standard input.",
)
@click.option("--token", hidden=True)
@click.option(
    "--ca-file", type=click.Path(path_type=Path), default=script.SITE_CA, show_default=True
)
@click.option("--trial", is_flag=True, help="The site is for trying: take a container too.")
def verb(
    servers: tuple[str, ...],
    token_file: IO[str] | None,
    token: str | None,
    ca_file: Path,
    *,
    trial: bool,
) -> None:
    """Make this machine a worker of a site. Interrupted, run it again."""
    if token is not None:
        raise UsageError(
            "--token: a token on a command line is seen by every user of this machine",
            hint="revoke it, make another, and hand it over with --token-file FILE, or with "
            "--token-file - on standard input",
        )
    if token_file is None:
        raise UsageError("no token", hint="--token-file FILE, or - for standard input")
    for server in servers:
        where = urllib.parse.urlsplit(server)
        if where.scheme != "https" or not where.hostname:
            raise UsageError(f"--server {server}: not https://<primer>:8444")
    known = Token.parse(token_file.read(_TOKEN_LIMIT))
    client.main(servers, known, ca_file, trial=trial)
