"""The passphrases of signing keys: from a file, or asked for on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import log, passphrase
from keystone.errors import ConfigurationError
from keystone.packager.keys import keyfile


def of_new_keys(path: Path | None, *, plain: bool = False) -> str | None:
    """The passphrase of a key that is made: from its file, or asked for twice."""
    if path is not None:
        return passphrase.require(_first_line(path), str(path))
    ask = sys.stdin.isatty() and not plain
    if ask and (typed := passphrase.chosen("Passphrase for the new keys", optional=True)):
        return typed
    log.warn("keys are NOT encrypted: whoever reads them can sign (--passphrase-file encrypts)")
    return None


def of_key(key: Path, path: Path | None) -> str | None:
    """The passphrase of a key that is there: from its file, or asked for when it needs one."""
    if path is not None:
        return _first_line(path)
    if keyfile.is_encrypted(key) and sys.stdin.isatty():
        typed: str = click.prompt(f"Passphrase of {key}", hide_input=True)
        return typed
    return None


def _first_line(path: Path) -> str:
    lines = passphrase.read(path).splitlines()
    if not lines or not lines[0]:
        raise ConfigurationError(f"{path}: its first line is empty, and no passphrase")
    return lines[0]
