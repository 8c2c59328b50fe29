"""`keystone-install node replace`: another machine takes a Primer's place."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.cli.options import FILE, fingerprint_option, json_option, plan_option
from keystone.install import main as install
from keystone.site import model as site


@click.command("replace")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--bundle", type=click.Path(path_type=Path),
              help="The signed bundle.  [default: the one in this Primer's store]")  # fmt: skip
@click.option("--site", "file", type=FILE,
              help="The site file.  [default: of the site that is installed here]")  # fmt: skip
@plan_option
@click.option("--approve", "approved", metavar="ID", default="",
              help="Approve the plan with this id, shown by --plan.")  # fmt: skip
@fingerprint_option
@json_option
def verb(
    names: tuple[str, ...], bundle: Path | None, file: Path | None, plan_only: bool, approved: str,
    root_fingerprint: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Let new machines take the places of lost Primers.

    Runs on any other Primer. A new machine has the name and the address of the old one; if it has
    other disks, change their serial numbers in the site file first. The plan shows by what the new
    machine differs from the known one, and its SSH host key, to compare with its console. The old
    member of etcd is removed, then the new machine is installed as any other and gets the vote when
    it has all data. An interrupted replacement is finished by the same command. Name all lost
    Primers at once, after `etcd restore` if they were the majority.
    """
    install.main(
        install.Options(
            bundle=bundle,
            site=file or site.installed(),
            plan_only=plan_only,
            fingerprint=root_fingerprint,
            as_json=as_json,
            approved=approved,
            replacing=names,
        )
    )
