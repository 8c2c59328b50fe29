"""`keystone-install readers node`: let this Primer's node trust what the site trusts."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.errors import HostError
from keystone.install import renewal
from keystone.join import follow
from keystone.pki import host_files
from keystone.site import model as site


@click.command("node")
def verb() -> None:
    """Let this Primer's node trust what the site trusts, and say so in its annotation."""
    file = Path(host_files.ANCHORS_FILE)
    if not file.exists():
        raise HostError(f"{file}: not here", hint="run the installation first")
    name = renewal.this_primer(site.load(site.installed())).name
    follow.take(follow.parse(file.read_text(), str(file)), name)
