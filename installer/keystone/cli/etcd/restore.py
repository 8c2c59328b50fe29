"""`keystone-install etcd restore`: bring a lost quorum back."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import EXISTING_FILE, json_option, plan_option
from keystone.install import restore
from keystone.site import model as site


@click.command("restore")
@click.option("--site", "file", type=click.Path(path_type=Path),
              help="The site file.  [default: of the site that is installed here]")  # fmt: skip
@click.option("--snapshot", type=EXISTING_FILE,
              help="Restore this file.  [default: the newest data of any Primer]")  # fmt: skip
@click.option(
    "--roll-back", is_flag=True, help="Restore although the quorum serves or has newer data."
)
@plan_option
@click.option("--approve", "approved", metavar="ID", help="Approve this plan, shown by --plan.")
@click.option("--yes", is_flag=True, help="Do not ask; the plan is approved as it is shown.")
@json_option
def verb(
    file: Path | None, snapshot: Path | None, roll_back: bool, plan_only: bool,
    approved: str | None, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring a lost etcd quorum back, from a surviving member or from a snapshot.

    Runs on any Primer, for all Primers that answer; those that do not are added later by
    keystone-install. What was written after the snapshot is lost. The data folders of before are
    kept beside the new ones. An interrupted restore is finished by the same command.
    """
    wanted = site.load(file or site.installed())
    made, hosts = restore.plan(wanted, snapshot, roll_back=roll_back)
    if as_json:
        log.out_json(made.document())
    else:
        log.table(("Primer", "what is done"), made.rows(), title=f"Restore {made.order.id}")
        log.info(f"from {made.source.what}")
    if plan_only:
        return
    restore.approve(made, yes=yes, approved=approved)
    restore.apply(made, hosts, wanted)
    log.info(f"Done: {len(made.hosts)} etcd members are healthy.")
    if made.silent:
        log.warn(f"Not restored: {', '.join(made.silent)}. Repair them, then run keystone-install.")
