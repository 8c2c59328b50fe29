"""`keystone-install status`: the site as it is, at a glance."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.install import overview
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.site import model as site


@click.command("status", help="Show every Primer, the quorum and the nodes.")
@click.option("--site", "file", type=click.Path(path_type=Path),
              help="The site file.  [default: of the site that is installed here]")  # fmt: skip
@json_option
def verb(file: Path | None, as_json: bool) -> None:
    """Look at every Primer of the site; changes nothing. Exit 8 where one does not answer."""
    seen = overview.look(site.load(file or site.installed()))
    if as_json:
        log.out_json(seen.document())
    else:
        _show(seen)
    seen.require_all()


def _show(seen: overview.Overview) -> None:
    log.out(first_line(seen.site))
    log.table(("host", "kernel", "pool", "store", "drift"), seen.rows())
    if seen.etcd is not None:
        log.info(f"etcd: {seen.etcd.healthy} members healthy")
    if seen.cluster is not None:
        log.info(f"nodes Ready: {', '.join(sorted(seen.cluster.ready_nodes)) or 'none'}")
    if said := root_key.reminder(seen.site, pki.DIRECTORY):
        log.warn(said)


def first_line(wanted: site.Site) -> str:
    """Which site this is, and what nobody may forget about it."""
    if wanted.trial:
        return f"Site {wanted.name}: a trial site, for trying and testing, never for production"
    return f"Site {wanted.name}"
