"""`keystone-install trust seal`: seal the keys on this Primer's disk."""

from __future__ import annotations

import click

from keystone import log
from keystone.pki import host_files


@click.command("seal")
def verb() -> None:
    """Seal what is in plain text of this Primer's keys, as the timer does.

    After a start any other Primer of the site opens them.
    """
    log.info(host_files.seal_tree() or "Nothing to do: the keys here are as they shall be")
