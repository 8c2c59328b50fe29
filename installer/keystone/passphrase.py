"""The rule for all passphrases that protect private keys: at least `LEAST` characters."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.errors import ConfigurationError

LEAST = 12
"""Characters. scrypt makes each guess expensive; a shorter passphrase can still be guessed."""


def wrong(text: str) -> str:
    """Return what is wrong with a passphrase, for the person who chose it; "" if it is valid."""
    if len(text.strip()) < LEAST:
        return f"a passphrase must have {LEAST} characters or more"
    return ""


def require(text: str, where: str) -> str:
    """Return the passphrase for a new key. where: its source ("FILE"), for the message.

    Raises ConfigurationError when it is too short. Do not call it to open an existing key.
    """
    if problem := wrong(text):
        raise ConfigurationError(
            f"{where}: {problem}", hint="generate one: head -c 15 /dev/urandom | base64"
        )
    return text


def read(path: Path) -> str:
    """Return the text of a passphrase file. Raises ConfigurationError when it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: cannot read the passphrase file: {error}",
            hint="give the path of a file that contains the passphrase",
        ) from error


def chosen(prompt: str, *, optional: bool = False) -> str:
    """Ask on the terminal for the passphrase of a new key, twice, until it is valid.

    optional: empty input is accepted, too.
    """

    def long_enough(text: str) -> str:
        if (text or not optional) and (problem := wrong(text)):
            raise click.UsageError(problem)
        return text

    typed: str = click.prompt(
        prompt, hide_input=True, confirmation_prompt=True, value_proc=long_enough,
        default="" if optional else None, show_default=False,
    )  # fmt: skip
    return typed
