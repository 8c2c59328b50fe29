"""`keystone-install node list`: the machines of the site."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.install import machines
from keystone.site import model as site


@click.command("list")
@click.option("--site", "file", type=click.Path(path_type=Path),
              help="The site file.  [default: of the site that is installed here]")  # fmt: skip
@json_option
def verb(file: Path | None, as_json: bool) -> None:
    """List Primers and workers: vote in etcd, node of the cluster, identity of the machine.

    Asks any Primer that answers, and changes nothing. Exit code 8 if neither etcd nor the API does.
    """
    found = machines.survey(site.load(file or site.installed()))
    if as_json:
        log.out_json([vars(one) for one in found])
        return
    log.table(
        ("name", "address", "part", "member", "node", "machine id", "SSH host key", "disks"),
        [one.row() for one in found],
    )
