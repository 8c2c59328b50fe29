"""`keystone-install backup show`: what a backup contains."""

from __future__ import annotations

import json
from pathlib import Path

import click

from keystone import log
from keystone.backup import manifest as manifests
from keystone.backup import pack, seal
from keystone.backup.manifest import Manifest
from keystone.cli.backup.options import opening
from keystone.cli.options import EXISTING_FILE, json_option, passphrase_option


class _Nowhere:
    """Receives the members of an archive and keeps none."""

    def begin(self, manifest: Manifest) -> None:
        """Take the manifest."""

    def open(self, entry: manifests.Entry) -> None:
        """Keep nothing of a member; its digest is compared."""


@click.command("show")
@click.argument("file", type=EXISTING_FILE)
@click.option("--key", "key_file", type=EXISTING_FILE, metavar="KEYFILE",
              help="Open it with this key; else only what its name says is shown.")  # fmt: skip
@passphrase_option
@json_option
def verb(file: Path, key_file: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Show what a backup contains. Nothing of it is written to this machine."""
    if key_file is None:
        _show_outside(file, as_json=as_json)
        return
    unpacker = pack.Unpacker(file, _Nowhere())
    seal.unseal(file, unpacker, opening(key_file, passphrase_file))
    manifest = unpacker.finish()
    if as_json:
        log.out_json(json.loads(manifests.dump(manifest)))
        return
    for line in lines(manifest):
        log.out(line)
    log.table(("file", "size"), [(one.name, log.size(one.size)) for one in manifest.files])


def lines(manifest: Manifest) -> list[str]:
    """Return what a person compares before a backup is used."""
    return [
        f"Site {manifest.site}, root {manifest.root}",
        f"taken {manifest.taken:%Y-%m-%d %H:%M:%S} UTC on {manifest.host}",
        f"etcd at revision {manifest.revision}",
        f"newest bundle: number {manifest.bundle}; certificates issued: {manifest.issued}",
    ]


def _show_outside(file: Path, *, as_json: bool) -> None:
    recipients, named = seal.kinds(file), manifests.named(file.name)
    size = file.stat().st_size
    if as_json:
        log.out_json({"file": file, "size": size, "recipients": recipients,
                      "name": vars(named) if named else None})  # fmt: skip
        return
    log.out(f"{file}: {log.size(size)}, sealed to {log.count(len(recipients), 'key')}")
    if named:
        log.out(f"by its name: site {named.site}, {named.taken:%Y-%m-%d %H:%M:%S} UTC, "
                f"revision {named.revision}")  # fmt: skip
