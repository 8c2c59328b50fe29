"""`keystone-install join`: make this machine a worker."""

from __future__ import annotations

import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from keystone.cluster import join_config
from keystone.errors import UsageError
from keystone.join import client, script
from keystone.join.tokens import Token

_TOKEN_LIMIT = 4096


@click.command("join")
@click.option("--server", "servers", multiple=True, required=True, help="https://<primer>:8444")
@click.option(
    "--token-file",
    type=click.File("rb", lazy=False),
    help="File with what `token create` printed on a Primer; - is standard input.",
)
@click.option("--token", hidden=True)
@click.option(
    "--ca-file", type=click.Path(path_type=Path), default=script.SITE_CA, show_default=True
)
@click.option("--trial", is_flag=True, help="The site is for trying: take a container too.")
def verb(
    servers: tuple[str, ...],
    token_file: IO[bytes] | None,
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
    places = [_server(text) for text in servers]
    known = Token.parse(token_file.read(_TOKEN_LIMIT).decode(errors="replace"))
    client.main(places, known, ca_file, trial=trial)


def _server(text: str) -> str:
    """A join service's address with its port. Raises UsageError when it is none."""
    with suppress(ValueError):  # urlsplit's for a bracket, .port's for a number out of range
        where = urllib.parse.urlsplit(text)
        if where.scheme == "https" and where.hostname:
            port = join_config.PORT if where.port is None else where.port
            host = f"[{where.hostname}]" if ":" in where.hostname else where.hostname
            return f"https://{host}:{port}"
    raise UsageError(f"--server {text}: not https://<primer>:{join_config.PORT}")
