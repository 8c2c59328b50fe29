"""The one rule for passphrases that guard private keys, wherever they are taken."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.errors import ConfigurationError

LEAST = 12
"""Characters. Scrypt makes each guess dear; below this a guesser with many machines wins."""


def wrong(text: str) -> str:
    """What is wrong with it, for the person who chose it; empty when it will do."""
    if len(text.strip()) < LEAST:
        return f"a passphrase has {LEAST} characters or more"
    return ""


def require(text: str, where: str) -> str:
    """The passphrase of a key that is being made. where: it comes from ("FILE"), for the message.

    Raises ConfigurationError for one that is too short. What opens a key is not asked: it opens.
    """
    if said := wrong(text):
        raise ConfigurationError(
            f"{where}: {said}", hint="make one: head -c 15 /dev/urandom | base64"
        )
    return text


def read(path: Path) -> str:
    """The text of a passphrase file. Raises ConfigurationError when it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: the passphrase file cannot be read: {error}",
            hint="name a file with the passphrase in it",
        ) from error


def chosen(prompt: str, *, optional: bool = False) -> str:
    """One for a new key, typed twice on a terminal; asked again until it will do.

    optional: nothing typed is an answer too.
    """

    def long_enough(text: str) -> str:
        if (text or not optional) and (said := wrong(text)):
            raise click.UsageError(said)
        return text

    typed: str = click.prompt(
        prompt, hide_input=True, confirmation_prompt=True, value_proc=long_enough,
        default="" if optional else None, show_default=False,
    )  # fmt: skip
    return typed
