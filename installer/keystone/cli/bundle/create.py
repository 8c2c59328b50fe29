"""`keystone-install bundle create`: create the bundle of a lock, or a delta for one site."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from keystone import log
from keystone.bundle.delta import have_list as haves
from keystone.bundle.report.text import installer_line
from keystone.cli.bundle.keys import passphrases
from keystone.cli.options import (
    FILE,
    FILE_OR_FOLDER,
    ca_file_option,
    json_option,
    mirrors_option,
    passphrase_option,
)
from keystone.packager import definition as definitions
from keystone.packager import lock as locks
from keystone.packager import members, pack
from keystone.packager.delta import Receiver
from keystone.packager.sources.upstream import Sources


@click.command("create")
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The bundle to write.")
@click.option("--keys", type=FILE_OR_FOLDER, required=True,
              help="Folder with the release key, made by `bundle keys init`.")  # fmt: skip
@mirrors_option
@ca_file_option
@passphrase_option
@click.option(
    "--base", type=FILE, multiple=True,
    help="An older bundle: blobs that resemble one of its blobs become patches. Repeatable.",
)  # fmt: skip
@click.option("--site-key", help="Key that signed the have-list: `bundle have` printed it.")
@click.option("--have", type=FILE, help="Create a delta without the blobs of this have-list.")
@json_option
def verb(
    source: Path, output: Path, keys: Path, mirrors: Path | None, ca_file: Path | None,
    passphrase_file: Path | None, as_json: bool,
    **receiver: Any,  # noqa: ANN401 --have, --site-key and --base
) -> None:  # fmt: skip
    """Create the bundle of a lock (or of the lock beside a definition). Same lock, same bytes."""
    delta = _receiver(**receiver)
    path = source if source.name.endswith(".json") else source.with_suffix(".lock.json")
    definition = definitions.beside(path) if path == source else definitions.load(source)
    sources = Sources(
        {**(definition.mirrors if definition else {}), **definitions.load_mirrors(mirrors)},
        ca_file or (definition.ca_file if definition else None),
        definition.token_servers if definition else {},
    )
    wanted = locks.load(path)
    signing = members.Signing(keys, passphrases.of_key(keys / "release.pem", passphrase_file))
    done = pack.create(wanted, path.parent, output, signing, sources, delta)
    state = "written" if done.changed else "exists already, unchanged"
    log.info(f"{output}: {state}, {log.size(done.size)}, {done.digest}")
    log.info("tell operators out of band:")
    log.info(f"  root fingerprint  {done.fingerprint}")
    if done.installer:
        log.info(f"  {installer_line(done.installer)}")
    if as_json:
        log.out_json(asdict(done))


def _receiver(have: Path | None, site_key: str | None, base: tuple[Path, ...]) -> Receiver | None:
    """Return the site that a delta is made for; None for a full bundle."""
    if have is None:
        if site_key or base:
            raise click.UsageError("--site-key and --base need --have")
        return None
    return Receiver(haves.read(have, site_key), base)
