"""Compare the release of an image with the one that its makers told out of band."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import log
from keystone.errors import RefusedError

release_option = click.option(
    "--release", "digest", help="Release of the image, as its makers told you out of band."
)


def require_makers(file: Path, found: str, digest: str | None) -> None:
    """Raise RefusedError unless `found` is the release that the makers of the file told.

    digest: of --release; None to ask, when standard input is a terminal.
    """
    if digest is None and sys.stdin.isatty():
        log.info(f"Release of this image, a digest of all its bytes:\n  {found}")
        digest = found if click.confirm("Is this the release that its makers told you?") else ""
    if digest != found:
        raise RefusedError(
            f"{file}: its release is {found}, not the expected one",
            hint="pass --release DIGEST, as its makers told you out of band",
        )
