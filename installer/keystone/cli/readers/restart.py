"""`keystone-install readers restart`: let programs read the files of a rotation."""

from __future__ import annotations

import click

from keystone.cluster import kubeadm, readers
from keystone.hosts import observe
from keystone.pki.rotation import LEAVES, NAMES
from keystone.site import model as site


@click.command("restart")
@click.argument("name", type=click.Choice((*NAMES, LEAVES)))
def verb(name: str) -> None:
    """Restart the programs here that have not read the files of the rotation of NAME."""
    here = site.load(site.installed())
    readers.catch_up(
        name,
        here.trust.certificate_lifetime,
        observe.certificates(),
        kubeadm.patience_of(here).wait,
    )
