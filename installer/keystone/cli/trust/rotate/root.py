"""`keystone-install trust rotate root`: replace the offline root."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.cli.options import FILE, json_option, plan_option
from keystone.cli.trust.rotate import options
from keystone.install import rotate
from keystone.pki.rotation import ROOT


@click.command("root")
@click.option("--new-root-key", "key_file", type=FILE, required=True,
              help="File for the new root's key; afterwards name it in the site file.")  # fmt: skip
@options.passphrase_option
@plan_option
@options.yes_option
@json_option
def verb(
    key_file: Path, passphrase_file: Path | None, *, plan_only: bool, yes: bool, as_json: bool
) -> None:
    """Replace the offline root; the CAs stay.

    The new root signs the same CAs again, and nothing restarts. If the old root's key has
    leaked, rotate every CA afterwards: whoever has it could sign others.
    """
    options.start(rotate.Options(
        ROOT, str(key_file), str(passphrase_file or ""), plan_only, yes, as_json=as_json
    ))  # fmt: skip
