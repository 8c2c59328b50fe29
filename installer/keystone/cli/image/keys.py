"""`keystone-install image keys`: make keys for Secure Boot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import FOLDER
from keystone.image import secureboot


@click.command("keys")
@click.argument("folder", type=FOLDER)
@click.option(
    "--name", default="Keystone", show_default=True, help="Name of the owner in the certificates."
)
def verb(folder: Path, name: str) -> None:
    """Make keys for Secure Boot in FOLDER: PK, KEK and db."""
    secureboot.make(folder, name, datetime.now(UTC))
    log.info(
        f"{folder}: made PK, KEK and db. Enrol the .cer files in the firmware's menu; keep the "
        ".key files with the bundle's signing keys."
    )
