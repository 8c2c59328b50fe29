"""Options that several verbs of `lab` share."""

from __future__ import annotations

import click

name_option = click.option(
    "--name", default="", help="Name of the lab.  [default: from lab/lab.yaml]"
)
kind_option = click.option(
    "--kind", default="auto", type=click.Choice(["auto", "virtual", "container"]),
    help="virtual: QEMU; container: Debian in namespaces; auto: virtual if KVM works.",
    show_default=True,
)  # fmt: skip
machine_argument = click.argument("machine")
