"""`keystone-install status`: the site as it is, at a glance."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.cli.options import json_option
from keystone.cluster.facts import observe_cluster, observe_etcd
from keystone.errors import HostError
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts
from keystone.install import main as install
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.site import model as site


@click.command("status", help="Show every Primer, the quorum and the nodes.")
@click.option("--site", "file", type=click.Path(path_type=Path),
              help="The site file.  [default: of the site that is installed here]")  # fmt: skip
@json_option
def verb(file: Path | None, as_json: bool) -> None:
    """Look at every Primer of the site; changes nothing."""
    wanted = site.load(file or site.installed())
    hosts = install.hosts_of(wanted)
    seen = observe.probe_all(hosts)
    first = next(iter(hosts.values()))
    etcd, cluster = observe_etcd(first), observe_cluster(first)
    if as_json:
        log.out_json({
            "site": wanted.name, "trial": wanted.trial,
            "hosts": seen, "etcd": etcd, "cluster": cluster,
            "rootKeyOnPrimer": [str(path) for path in root_key.left(wanted, pki.DIRECTORY)],
        })  # fmt: skip
        return
    log.out(first_line(wanted))
    log.table(("host", "kernel", "pool", "store", "drift"), [_row(n, f) for n, f in seen.items()])
    if etcd is not None:
        log.info(f"etcd: {etcd.healthy} members healthy")
    if cluster is not None:
        log.info(f"nodes Ready: {', '.join(sorted(cluster.ready_nodes)) or 'none'}")
    if said := root_key.reminder(wanted, pki.DIRECTORY):
        log.warn(said)


def first_line(wanted: site.Site) -> str:
    """Which site this is, and what nobody may forget about it."""
    if wanted.trial:
        return f"Site {wanted.name}: a trial site, for trying and testing, never for production"
    return f"Site {wanted.name}"


def _row(name: str, seen: HostFacts | HostError) -> tuple[str, ...]:
    if isinstance(seen, HostError):
        return (name, "cannot be reached", "", "", "")
    pools = ", ".join(f"{pool.name} {pool.health}" for pool in seen.pools)
    drift = [f"{role}: {path}" for role, state in seen.roles.items() for path in state.drift]
    store = "complete" if seen.store.complete else "missing"
    return (name, seen.kernel, pools or "none", store, ", ".join(drift) or "none")
