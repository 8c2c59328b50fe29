"""`keystone-install readers behind`: what does not follow a rotation yet."""

from __future__ import annotations

import click

from keystone import log
from keystone.cluster import readers
from keystone.hosts import observe
from keystone.pki.rotation import LEAVES, NAMES
from keystone.site import model as site


@click.command("behind")
@click.argument("name", type=click.Choice((*NAMES, LEAVES)))
def verb(name: str) -> None:
    """Print what does not follow the rotation of NAME on this Primer yet (JSON)."""
    if name == "kubernetes":
        readers.require_one_signer()
    lifetime = site.load(site.installed()).trust.certificate_lifetime
    log.out_json(readers.behind(name, lifetime, observe.certificates()))
