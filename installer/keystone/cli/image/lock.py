"""`keystone-install image lock`: resolve a recipe's packages to digests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from keystone import log
from keystone.cli.options import FILE_OR_FOLDER, ca_file_option, mirrors_option
from keystone.errors import ConfigurationError
from keystone.files import write_file
from keystone.image import recipe as recipes
from keystone.image import relock
from keystone.packager import definition as definitions
from keystone.packager import lock as locks
from keystone.packager.resolve import resolve
from keystone.packager.sources.upstream import Sources


@click.command("lock")
@click.argument("recipe", type=FILE_OR_FOLDER)
@click.option(
    "--keep-packages",
    "keep",
    is_flag=True,
    help="Update only keystone-install and its roles; keep all packages, query no upstream.",
)
@mirrors_option
@ca_file_option
def verb(recipe: Path, mirrors: Path | None, ca_file: Path | None, *, keep: bool) -> None:
    """Resolve a recipe's packages to digests and list what changed."""
    file = recipes.file_of(recipe)
    wanted, path = recipes.load(file), file.with_suffix(".lock.json")
    old = locks.load(path) if path.exists() else None
    sources = Sources(definitions.load_mirrors(mirrors), ca_file)
    now = datetime.now(UTC).replace(microsecond=0)
    definition = wanted.definition()
    if keep and old is None:
        raise ConfigurationError(
            f"{path}: the lock does not exist, so --keep-packages has no packages to keep",
            hint=f"create it: keystone-install image lock {recipe}",
        )
    if keep and old is not None:
        relock.require_packages(old, wanted)
        bare = relock.without_packages(definition)
        new = relock.kept(resolve(bare, sources, path.parent, now, old), old)
    else:
        new = relock.dated(resolve(definition, sources, path.parent, now, old), old)
    changes = list(locks.differences(old, new))
    if old is not None and not changes:
        log.info(f"{path}: nothing changed")
        return
    for line in changes:
        log.info(f"  {line}")
    write_file(path, locks.dump(new))
    total = sum(blob.size for blob in new.blobs)
    log.info(f"{path}: {log.count(len(new.items), 'item')}, {log.size(total)}")
