"""`keystone-install bundle keys rotate`: propose the next root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keystone.cli.bundle.keys import passphrases, render
from keystone.cli.bundle.keys.options import dir_option
from keystone.cli.options import FILE, json_option, passphrase_option
from keystone.packager.keys import ceremony, keys, roots


@click.command("rotate")
@dir_option
@click.option("--add-root", type=FILE, multiple=True, help="Public key of a new holder.")
@click.option("--add-release", type=FILE, multiple=True, help="Public key of a new release key.")
@click.option("--revoke", multiple=True, help="Name or id of a key that is no longer valid.")
@click.option("--new-release", is_flag=True, help="Make a new release key and revoke the old one.")
@click.option("--threshold", type=int, help="Number of holders that must sign from now on.")
@click.option("--years", default=5, show_default=True, help="Validity of the root, in years.")
@click.option("--key", "signing", type=FILE, multiple=True,
              help="Root key to sign with now; by default DIR/root.pem if it exists.")  # fmt: skip
@passphrase_option
@json_option
def verb(
    folder: Path, signing: tuple[Path, ...], passphrase_file: Path | None, new_release: bool,
    as_json: bool, **change: Any,  # noqa: ANN401 the fields of Change
) -> None:  # fmt: skip
    """Propose the next root. Without changes, the next root only has a later expiry."""
    with roots.locked(folder):
        if new_release:
            public, old = keys.new_release_key(folder, passphrases.of_new_keys(passphrase_file))
            change["add_release"] = (*change["add_release"], public)
            change["revoke"] = (*change["revoke"], *old)
        path = ceremony.propose(folder, ceremony.Change(**change))
        here = folder / keys.ROOT
        for key in signing or ([here] if here.exists() else []):
            ceremony.sign(path, key, passphrases.of_key(key, passphrase_file))
        state = ceremony.collect(folder)
    render.progress(state, folder, as_json=as_json)
