"""The release of an image: named beforehand, or asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import log
from keystone.errors import RefusedError

release_option = click.option(
    "--release", "digest", help="Digest of its release, as its makers told you."
)


def require_makers(file: Path, found: str, digest: str | None) -> None:
    """Raises RefusedError unless `found` is the release that the makers of the file told.

    digest: as it was given; None to ask, where there is a terminal.
    """
    if digest is None and sys.stdin.isatty():
        log.info(f"Its release, which stands for every byte of it:\n  {found}")
        digest = found if click.confirm("Is it what its makers told you?") else ""
    if digest != found:
        raise RefusedError(
            f"{file}: its release is {found}, not the one that was named",
            hint="--release DIGEST, as its makers told you by another way than this file",
        )
