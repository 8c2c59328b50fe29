"""`keystone-install lab run`: the whole way, from nothing to a worker."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import names
from keystone.cli.lab.options import kind_option, name_option
from keystone.lab import demo
from keystone.lab.machines import Lab


@click.command("run")
@name_option
@kind_option
@click.option(
    "--machines", default="p1,p2,p3,w1", help="Names with commas between.", show_default=True
)
def verb(name: str, kind: str, machines: str) -> None:
    """Make the bundle, start machines, install a cluster, join a worker: `make demo`."""
    demo.main(Lab(name, kind=kind), tuple(names(machines)))
