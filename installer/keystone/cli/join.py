"""`keystone-install join`: make this machine a worker."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

import click

from keystone import join_client, join_script
from keystone.errors import UsageError
from keystone.join import Token


@click.command("join")
@click.option("--server", "servers", multiple=True, required=True, help="https://<primer>:8444")
@click.option("--token", required=True, help="What `token create` printed on a Primer.")
@click.option(
    "--ca-file", type=click.Path(path_type=Path), default=join_script.SITE_CA, show_default=True
)
@click.option("--trial", is_flag=True, help="The site is for trying: take a container too.")
def group(servers: tuple[str, ...], token: str, ca_file: Path, *, trial: bool) -> None:
    """Make this machine a worker of a site. Interrupted, run it again."""
    for server in servers:
        where = urllib.parse.urlsplit(server)
        if where.scheme != "https" or not where.hostname:
            raise UsageError(f"--server {server}: not https://<primer>:8444")
    join_client.main(servers, Token.parse(token), ca_file, trial=trial)
