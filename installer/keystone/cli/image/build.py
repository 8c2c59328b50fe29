"""`keystone-install image build`: build an image from a recipe and its lock."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log, sandbox
from keystone.cli.options import (
    EXISTING_FOLDER,
    FILE,
    FILE_OR_FOLDER,
    ca_file_option,
    json_option,
    mirrors_option,
)
from keystone.errors import ConfigurationError
from keystone.image import build as builds
from keystone.image import recipe as recipes
from keystone.image import secureboot
from keystone.image.rootfs import Materials
from keystone.packager import definition as definitions
from keystone.packager import lock as locks
from keystone.packager.sources.upstream import Sources


@click.command("build")
@click.argument("recipe", type=FILE_OR_FOLDER)
@click.option(
    "--format",
    "kind",
    default="iso",
    show_default=True,
    help="iso, raw, qcow2, vagrant, pxe, uki or oci.",
)
@click.option("-o", "--output", type=FILE, required=True, help="The image to write.")
@click.option(
    "--secure-boot", "keys", type=EXISTING_FOLDER, help="Sign with the keys of `image keys`."
)
@click.option(
    "--carry",
    type=EXISTING_FOLDER,
    help="Folder of files to put on the ISO: site.yaml, introductions, join.yaml, offline.tar.",
)
@mirrors_option
@ca_file_option
@json_option
def verb(
    recipe: Path, kind: str, output: Path, keys: Path | None, carry: Path | None,
    mirrors: Path | None, ca_file: Path | None, *, as_json: bool,
) -> None:  # fmt: skip
    """Build an image from a recipe and its lock. Same recipe and lock, same bytes."""
    sandbox.become_root()
    file = recipes.file_of(recipe)
    path = file.with_suffix(".lock.json")
    if not path.exists():
        raise ConfigurationError(
            f"{path}: the lock does not exist",
            hint=f"create it: keystone-install image lock {recipe}",
        )
    sources = Sources(definitions.load_mirrors(mirrors), ca_file)
    materials = Materials(locks.load(path), path.parent, sources)
    signers = secureboot.load(keys.resolve()) if keys else None
    done = builds.build(recipes.load(file), materials, kind, output, signers, carry)
    log.info(f"{done.file}: {log.size(done.size)}")
    log.info(f"  release, to compare out of band: {done.release}")
    log.info(f"  root hash of the system: {done.system}")
    log.info(f"  PCR 11 of a TPM that measured it: {done.register}")
    if as_json:
        log.out_json({"file": str(done.file), "size": done.size, "system": done.system,
                      "release": done.release, "pcr11": done.register})  # fmt: skip
