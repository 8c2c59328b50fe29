"""`keystone-install lab up`: start machines."""

from __future__ import annotations

import click

from keystone import log
from keystone.cli.lab.machines import names, print_started
from keystone.cli.lab.options import kind_option, name_option
from keystone.cli.options import json_option
from keystone.lab.machines.lab import Lab


@click.command("up")
@name_option
@kind_option
@click.option(
    "--machines", default="", help="Names separated by commas.  [default: all in lab/lab.yaml]"
)
@click.option("--fresh", is_flag=True, help="Start with new, empty machines.")
@json_option
def verb(name: str, kind: str, machines: str, fresh: bool, as_json: bool) -> None:
    """Start machines and wait until they answer ssh."""
    lab = Lab(name, kind=kind)
    times = lab.up(names(machines) or None, fresh=fresh)
    if as_json:
        log.out_json({"kind": lab.kind, "emulated": lab.emulated, "seconds": times})
        return
    print_started(lab, times, _title(lab))


def _title(lab: Lab) -> str:
    if lab.kind == "container":
        return "containers"
    return "emulated" if lab.emulated else "KVM"
