"""`keystone-install image verify`: read and check all of an installer medium."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.appliance import verify_medium as verifying
from keystone.cli.options import EXISTING_FILE, json_option


@click.command("verify")
@click.argument("image", type=EXISTING_FILE)
@click.option(
    "--release", "digest", default="",
    help="Release of the image, as its makers told you out of band.",
)  # fmt: skip
@json_option
def verb(image: Path, digest: str, *, as_json: bool) -> None:
    """Check every byte of an installer medium.

    IMAGE is an ISO file or the stick that it was written to.
    """
    found = verifying.verify(image, digest)
    if as_json:
        log.out_json(asdict(found))
    else:
        log.out(found.describe())
    if not digest:
        log.info(
            "Complete. To check who made it, compare the release out of band, or pass --release."
        )
