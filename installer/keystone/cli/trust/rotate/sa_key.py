"""`keystone-install trust rotate sa-key`: replace the key of service accounts."""

from __future__ import annotations

import click

from keystone.cli.trust.rotate import options
from keystone.install import rotate
from keystone.pki.rotation import SERVICE_ACCOUNTS


@click.command("sa-key")
@click.option(
    "--now", is_flag=True, help="Drop the old key though pods hold its tokens: some fail a while."
)
@options.stages
def verb(
    *, now: bool, plan_only: bool, once: bool, leave_behind: bool, yes: bool, as_json: bool
) -> None:
    """Replace the key that signs the tokens of service accounts.

    In three stages: both verify, the new one signs, the old one is dropped. Pods get new tokens
    within an hour; until then the last stage is refused. Tokens in Secrets of an old kind do
    not renew: they end with the last stage.
    """
    options.start(rotate.Options(
        SERVICE_ACCOUNTS, "", "", plan_only, yes, once, leave_behind, now, as_json,
    ))  # fmt: skip
