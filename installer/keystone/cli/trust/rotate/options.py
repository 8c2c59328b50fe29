"""Options that the verbs of `trust rotate` share, and their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keystone.cli.options import FILE, json_option, plan_option
from keystone.install import rotate
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

yes_option = click.option(
    "--yes", is_flag=True, help="Do not ask; the plan is approved as it is shown."
)
passphrase_option = click.option(
    "--passphrase-file", type=FILE,
    help="Passphrase of the root's key; by default the site file's, else typed.",
)  # fmt: skip
once_option = click.option("--once", is_flag=True, help="Only the next stage.")
behind_option = click.option(
    "--leave-behind", is_flag=True,
    help="Go on although nodes or workloads have not followed: they lose the API.",
)  # fmt: skip


def stages(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a rotation in stages."""
    for option in (json_option, yes_option, behind_option, once_option, plan_option):
        verb = option(verb)
    return verb


def start(options: rotate.Options) -> None:
    """Run it for the site that is installed here."""
    rotate.run(site.load(site.installed()), options)
