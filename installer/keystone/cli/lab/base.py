"""`keystone-install lab base`: build the image from which all machines start."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.lab.machines import base_system


@click.command("base")
@json_option
def verb(as_json: bool) -> None:
    """Build the base image if it does not exist, and print its path."""
    image = base_system.image()
    if as_json:
        log.out_json({key: str(value) for key, value in asdict(image).items()})
    else:
        log.out(str(image.disk))
