"""`keystone-install image verify`: a medium is read whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from keystone import log
from keystone.appliance import verify_medium as verifying
from keystone.cli.options import EXISTING_FILE, json_option


@click.command("verify")
@click.argument("image", type=EXISTING_FILE)
@click.option("--release", "digest", default="", help="Digest of it, as its makers told you.")
@json_option
def verb(image: Path, digest: str, *, as_json: bool) -> None:
    """Read an installer medium whole, an ISO file or the stick it was written to."""
    found = verifying.verify(image, digest)
    if as_json:
        log.out_json(asdict(found))
    else:
        log.out(found.describe())
    if not digest:
        log.info("Whole. Whether it is its makers': compare the release, or give it by --release.")
