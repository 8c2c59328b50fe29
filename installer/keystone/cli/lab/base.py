"""`keystone-install lab base`: the image that all machines begin with."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.lab import base as base_image


@click.command("base")
@json_option
def verb(as_json: bool) -> None:
    """Build the base image unless it is there, and say where it lies."""
    image = base_image.image()
    if as_json:
        log.out_json({key: str(value) for key, value in asdict(image).items()})
    else:
        log.out(str(image.disk))
