"""Options that verbs of `backup` share, and the passphrase of the operator's key."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import passphrase
from keystone.backup import seal
from keystone.cli.options import EXISTING_FILE
from keystone.errors import ConfigurationError

site_option = click.option(
    "--site", "site_file", type=click.Path(path_type=Path),
    help="The site file.  [default: of the site that is installed here]",
)  # fmt: skip
key_option = click.option(
    "--key", "key_file", type=EXISTING_FILE, required=True, metavar="KEYFILE",
    help="The key file that `backup keys init` made.",
)  # fmt: skip


def new_passphrase(file: Path | None) -> str:
    """Return the passphrase of a new key. Raises ConfigurationError without a terminal or file."""
    if file is not None:
        return passphrase.require(_first_line(file), str(file))
    _require_terminal()
    return passphrase.chosen("Passphrase for the key of backups")


def opening(key_file: Path, file: Path | None) -> str:
    """Return the private key of a key file; its passphrase is in `file`, or typed if it has one."""

    def words() -> str:
        if file is not None:
            return _first_line(file)
        _require_terminal()
        typed: str = click.prompt("Passphrase for the key of backups", hide_input=True, err=True)
        return typed

    return seal.open_key(key_file, words)


def _first_line(file: Path) -> str:
    return passphrase.read(file).partition("\n")[0].rstrip("\r")


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "the key's passphrase is needed, and there is no terminal to ask on",
            hint="give it in a file: --passphrase-file FILE",
        )
