"""Ask a person whether to trust the root of a first bundle."""

from __future__ import annotations

import sys

import click

from keystone import log


def confirm_root(fingerprint: str) -> bool:
    """Ask on the terminal whether the packager named this root. If yes, the host will pin it.

    fingerprint: SHA-256 of the root's file, 64 hex digits. Returns False without a terminal,
    because only a person can decide to trust a root on first use.
    """
    if not sys.stdin.isatty():
        return False
    log.info(f"This host sees the bundle's trust root for the first time:\n  {fingerprint}")
    return click.confirm("Is this the fingerprint that the packager told you?")
