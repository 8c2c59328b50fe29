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
@click.option("--server", "servers", multiple=True, required=True,
              help="Join service of a Primer, https://<primer>:8444. Repeatable.")  # fmt: skip
@click.option(
    "--token-file",
    type=click.File("rb", lazy=False),
    help="File with the token that `token create` printed on a Primer; - for standard input.",
)
@click.option("--token", hidden=True)
@click.option(
    "--ca-file", type=click.Path(path_type=Path), default=script.SITE_CA, show_default=True,
    help="CA certificate of the site (PEM).",
)  # fmt: skip
@click.option("--trial", is_flag=True, help="Of a trial site: this machine may be a container.")
def verb(
    servers: tuple[str, ...],
    token_file: IO[bytes] | None,
    token: str | None,
    ca_file: Path,
    *,
    trial: bool,
) -> None:
    """Make this machine a worker of a site. If it is interrupted, run it again."""
    if token is not None:
        raise UsageError(
            "--token: every user of this machine can read a token on a command line",
            hint="revoke it, create another one, and pass it with --token-file FILE, or with "
            "--token-file - on standard input",
        )
    if token_file is None:
        raise UsageError(
            "no token", hint="pass --token-file FILE, or --token-file - for standard input"
        )
    urls = [_server(text) for text in servers]
    known = Token.parse(token_file.read(_TOKEN_LIMIT).decode(errors="replace"))
    client.main(urls, known, ca_file, trial=trial)


def _server(text: str) -> str:
    """Return the URL of a join service with its port. Raises UsageError when it is invalid."""
    with suppress(ValueError):  # from urlsplit for a bracket, from .port for an invalid number
        where = urllib.parse.urlsplit(text)
        if where.scheme == "https" and where.hostname:
            port = join_config.PORT if where.port is None else where.port
            host = f"[{where.hostname}]" if ":" in where.hostname else where.hostname
            return f"https://{host}:{port}"
    raise UsageError(f"--server {text}: not https://<primer>:{join_config.PORT}")
