"""Variables of the role `addons`: pod network, cluster DNS, storage class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster import kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context

IMAGES = {
    "coredns": "registry.k8s.io/coredns/coredns",
    "flannel": "ghcr.io/flannel-io/flannel",
    "flannel_plugin": "ghcr.io/flannel-io/flannel-cni-plugin",
    "provisioner": "docker.io/rancher/local-path-provisioner",
    "busybox": "docker.io/library/busybox",
}


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `addons_inputs`."""
    site = context.site
    slow = site.patience.profile == "emulated"
    return {
        "addons_directory": "/etc/kubernetes/addons",
        "addons_images": {
            key: kubeadm.image_ref(context.bundle, name) for key, name in IMAGES.items()
        },
        "addons_pods": str(site.networks.pods),
        "addons_cluster_domain": site.networks.cluster_domain,
        "addons_dns_address": str(site.networks.services[10]),
        "addons_dns_replicas": 1 if slow else 2,
        "addons_probe_seconds": 60 if slow else 5,
        "addons_pool_label": kubeadm.POOL_LABEL,
        "addons_pool": site.storage.pool,
        "addons_volumes": "/var/lib/keystone/volumes",
        "addons_request_seconds": 600 if slow else 60,
    }
