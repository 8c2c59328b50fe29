"""`keystone-install backup verify`: prove that a backup can be used."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.backup import opened
from keystone.cli.backup.options import key_option, opening
from keystone.cli.backup.show import lines
from keystone.cli.options import EXISTING_FILE, FOLDER, json_option, passphrase_option


@click.command("verify")
@click.argument("file", type=EXISTING_FILE)
@key_option
@passphrase_option
@click.option("--work", type=FOLDER, default=Path("/var/tmp"), show_default=True,  # noqa: S108 mkdtemp makes the folder
              help="For the opened content, removed at the end; /dev/shm is memory.")  # fmt: skip
@json_option
def verb(
    file: Path, key_file: Path, passphrase_file: Path | None, work: Path, as_json: bool
) -> None:
    """Open a backup, check everything in it, and restore its snapshot for trial.

    Checked are the seal, every digest, that the keys of the tree belong to its certificates, and
    etcd's own hash. The snapshot is restored where etcd's programs are, on a Primer.
    """
    with opened.scratch(file, opening(key_file, passphrase_file), work) as (manifest, folder):
        keys = opened.try_snapshot(folder, manifest.first_root)
    if as_json:
        log.out_json({"file": file, "name": manifest.file_name, "root": manifest.root,
                      "revision": manifest.revision, "keys": keys})  # fmt: skip
        return
    for line in lines(manifest):
        log.out(line)
    tried = "its snapshot was not restored: no etcd here" if keys is None else f"{keys} keys"
    log.info(f"{file}: whole; {tried}")
