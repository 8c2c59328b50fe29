"""The question that a person is asked about the trust root of a bundle that comes first."""

from __future__ import annotations

import sys

import click

from keystone import log


def confirm_root(fingerprint: str) -> bool:
    """Ask on the terminal whether the packager named this root; then it is trusted from now on.

    fingerprint: SHA-256 of the root's file, 64 hex digits. False without a terminal: trust on
    first use is a person's decision, and nobody is there to make it.
    """
    if not sys.stdin.isatty():
        return False
    log.info(f"The bundle's trust root, seen for the first time here:\n  {fingerprint}")
    return click.confirm("Is this the fingerprint that the packager told you?")
