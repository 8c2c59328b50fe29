"""Variables of the role `etcd`: one member, the list of all members, Raft's timing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster import etcd, kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context


MARKER = "/var/lib/keystone/state/etcd.json"
"""What the role writes when the member has joined: from then on it never starts empty."""


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `etcd_inputs`."""
    site, host = context.site, context.host
    archive = context.bundle.item("binary", "etcd")
    initial = context.initial or (etcd.initial_cluster(site.primers), "new")
    timing = context.timing or etcd.TIMINGS[site.patience.profile]
    return {
        "etcd_archive": archive.path,
        "etcd_archive_folder": f"etcd-v{archive.version.removeprefix('v')}-linux-amd64",
        "etcd_name": host.name,
        "etcd_peer_url": etcd.peer_url(host),
        "etcd_client_urls": [etcd.client_url(host), f"https://127.0.0.1:{etcd.CLIENT_PORT}"],
        "etcd_metrics_url": f"http://127.0.0.1:{etcd.METRICS_PORT}",
        "etcd_initial_cluster": initial[0],
        "etcd_initial_cluster_state": initial[1],
        "etcd_initial_cluster_token": etcd.cluster_token(site),
        "etcd_heartbeat_ms": timing.heartbeat,
        "etcd_election_ms": timing.election,
        "etcd_environment": dict(kubeadm.patience_of(site).environment),
        "etcd_mount": "/var/lib/etcd",
        "etcd_on_pool": site.storage.on_pool,
        "etcd_data_dir": "/var/lib/etcd/data",
        "etcd_marker": MARKER,
        "etcd_pki_dir": "/etc/etcd/pki",
    }
