"""`keystone-install lab run`: demonstrate everything, from the bundle to a worker."""

from __future__ import annotations

import click

from keystone.cli.lab.machines import names
from keystone.cli.lab.options import kind_option, name_option
from keystone.lab import demo
from keystone.lab.machines.lab import Lab


@click.command("run")
@name_option
@kind_option
@click.option(
    "--machines", default="p1,p2,p3,w1", help="Names separated by commas.", show_default=True
)
def verb(name: str, kind: str, machines: str) -> None:
    """Run the demo: bundle, machines, cluster, worker.

    Creates the bundle, starts machines, installs a cluster and joins a worker, as `make demo` does.
    """
    demo.main(Lab(name, kind=kind), tuple(names(machines)))
