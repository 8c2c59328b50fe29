"""`keystone-install bundle lock`: resolve a definition to digests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import FILE, FOLDER, ca_file_option, mirrors_option
from keystone.files import write_file
from keystone.packager import definition as definitions
from keystone.packager import issued_numbers
from keystone.packager import lock as locks
from keystone.packager.resolve import resolve
from keystone.packager.sbom import describe as sbom
from keystone.packager.sources.upstream import Sources


@click.command("lock")
@click.argument("definition", type=FILE)
@click.option("-o", "--output", type=FILE, help="The lock; <definition>.lock.json by default.")
@mirrors_option
@ca_file_option
@click.option(
    "--keys", type=FOLDER, help="Use a number above all that were signed with these keys."
)
@click.option("--no-sbom", is_flag=True, help="Omit SBOMs and provenance.")
def verb(
    definition: Path, output: Path | None, mirrors: Path | None, ca_file: Path | None,
    keys: Path | None, no_sbom: bool,
) -> None:  # fmt: skip
    """Resolve a definition to digests and list what changed since the last lock."""
    wanted = definitions.load(definition)
    path = output or definition.with_suffix(".lock.json")
    old = locks.load(path) if path.exists() else None
    sources = Sources(
        {**wanted.mirrors, **definitions.load_mirrors(mirrors)},
        ca_file or wanted.ca_file,
        wanted.token_servers,
    )
    now = datetime.now(UTC).replace(microsecond=0)
    before = sbom.bare(old) if old else None
    new = locks.numbered(resolve(wanted, sources, path.parent, now, old), before)
    taken = bool(keys and old and issued_numbers.renumbered(keys, old) != old)
    if not taken and sbom.may_stay(old, new, path.parent, sources, documents=not no_sbom):
        log.info(f"{path}: nothing changed")
        return
    for line in locks.differences(before, new):
        log.info(f"  {line}")
    new = locks.above(new, old)
    new = issued_numbers.renumbered(keys, new) if keys else new
    if old is not None and old.number != new.number:
        log.info(f"  number {old.number} -> {new.number}")
    new = new if no_sbom else sbom.describe(new, path.parent, sources)
    write_file(path, locks.dump(new))
    total = sum(blob.size for blob in new.blobs)
    items, blobs = log.count(len(new.items), "item"), log.count(len(new.blobs), "blob")
    log.info(f"{path}: {items}, {blobs}, {log.size(total)}")
