"""`keystone-install bundle sbom`: print the SBOMs and the provenance of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report import preview
from keystone.cli.options import FILE
from keystone.files import write_file
from keystone.packager.sbom import documents

NAMES = {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json", "provenance": "provenance.json"}


@click.command("sbom")
@click.argument("file", type=FILE)
@click.option("--format", "form", type=click.Choice(sorted(NAMES)), default="spdx",
              show_default=True, help="Which document.")  # fmt: skip
@click.option("-o", "--output", type=FILE, help="File to write; standard output by default.")
@click.option("--validate", is_flag=True, help="Check it against its schema instead.")
def verb(file: Path, form: str, output: Path | None, validate: bool) -> None:
    """Print an SBOM or the provenance of a bundle (JSON), after comparing its signed digest."""
    data = documents.of(preview.load(file), NAMES[form])
    if validate:
        documents.validate(NAMES[form], data)
        log.info(f"{file}: {NAMES[form]} is valid, {log.size(len(data))}")
    elif output:
        write_file(output, data)
        log.info(f"{output}: written, {log.size(len(data))}")
    else:
        log.out(data.decode().rstrip("\n"))
