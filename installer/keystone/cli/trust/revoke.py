"""`keystone-install trust revoke`: let etcd refuse certificates whose key leaked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keystone.cli.options import EXISTING_FILE, json_option, plan_option
from keystone.cli.trust.rotate.options import yes_option
from keystone.errors import UsageError
from keystone.install import revoke
from keystone.pki.revocation import LEAVES
from keystone.site import model as site

if TYPE_CHECKING:
    from pathlib import Path


@click.command("revoke")
@click.argument("host", required=False)
@click.argument("names", nargs=-1, type=click.Choice(tuple(LEAVES)), metavar="[NAME]...")
@click.option("--certificate", type=EXISTING_FILE,
              help="Revoke the certificate in this file, which a CA of etcd issued.")  # fmt: skip
@plan_option
@yes_option
@json_option
def verb(
    host: str | None, names: tuple[str, ...], certificate: Path | None, *, plan_only: bool,
    yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Let etcd refuse certificates whose key leaked.

    All that the Primer HOST has, or those of these NAMES; it gets new ones first. Members refuse
    the old ones at the next connection and need no restart; connections that are open stay open.
    Runs on any Primer; Primers that do not answer are left out and named at the end (exit code 8).
    Without HOST: only bring the lists to Primers that lack them, as after an interruption. Only
    etcd reads such lists: if the key of another certificate leaked, rotate its CA.
    """
    if host and certificate:
        raise UsageError("give either the name of a Primer or --certificate FILE, not both")
    wanted = site.load(site.installed())
    revoke.run(wanted, revoke.Options(host or "", names, certificate, plan_only, yes, as_json))
