"""`keystone-install bundle sbom`: the SBOMs and the provenance that a bundle carries."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.report.preview import look
from keystone.cli.options import FILE
from keystone.files import write_file
from keystone.packager.sbom import documents

NAMES = {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json", "provenance": "provenance.json"}


@click.command("sbom")
@click.argument("file", type=FILE)
@click.option("--format", "form", type=click.Choice(sorted(NAMES)), default="spdx")
@click.option("-o", "--output", type=FILE, help="Where to write it; standard output by default.")
@click.option("--validate", is_flag=True, help="Check it against its schema instead.")
def verb(file: Path, form: str, output: Path | None, validate: bool) -> None:
    """Print a document about a bundle, its digest compared with the signed one. All are JSON."""
    data = documents.of(look(file), NAMES[form])
    if validate:
        documents.validate(NAMES[form], data)
        log.info(f"{file}: {NAMES[form]} is valid, {log.size(len(data))}")
    elif output:
        write_file(output, data)
        log.info(f"{output}: written, {log.size(len(data))}")
    else:
        log.out(data.decode().rstrip("\n"))
