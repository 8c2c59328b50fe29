"""`keystone-install lab inventory`: print machines as an Ansible inventory."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.lab.machines import names
from keystone.cli.lab.options import name_option
from keystone.lab.machines.lab import Lab


@click.command("inventory")
@name_option
@click.option("--machines", default="", help="Names separated by commas, such as p1,w1.")
def verb(name: str, machines: str) -> None:
    """Print the machines as an Ansible inventory (JSON)."""
    log.out_json({"all": {"hosts": Lab(name).inventory(names(machines) or None)}})
