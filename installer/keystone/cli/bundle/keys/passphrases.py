"""Passphrases of signing keys: read from a file, or typed on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keystone import log, passphrase
from keystone.errors import ConfigurationError
from keystone.packager.keys import keyfile


def of_new_keys(path: Path | None, *, plain: bool = False) -> str | None:
    """Return the passphrase for a new key: from its file, or typed twice; None for none."""
    if path is not None:
        return passphrase.require(_first_line(path), str(path))
    ask = sys.stdin.isatty() and not plain
    if ask and (typed := passphrase.chosen("Passphrase for the new keys", optional=True)):
        return typed
    log.warn("keys are NOT encrypted: anyone who reads them can sign; use --passphrase-file")
    return None


def of_key(key: Path, path: Path | None) -> str | None:
    """Return the passphrase of an existing key: from its file, or typed if it needs one."""
    if path is not None:
        return _first_line(path)
    if keyfile.is_encrypted(key) and sys.stdin.isatty():
        typed: str = click.prompt(f"Passphrase of {key}", hide_input=True)
        return typed
    return None


def _first_line(path: Path) -> str:
    lines = passphrase.read(path).splitlines()
    if not lines or not lines[0]:
        raise ConfigurationError(
            f"{path}: the first line is empty", hint="put the passphrase on the first line"
        )
    return lines[0]
