"""Variables of the role `endpoint`: addresses of the API servers, source of haproxy's package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.ansible.roles.containerd import primers_for
from keystone.bundle.model import STORE
from keystone.cluster import kubeadm

if TYPE_CHECKING:
    from keystone.cluster.context import Context

CODENAME = "trixie"
SITE_CA = "/etc/keystone/pki/site-ca.crt"
KUBERNETES_CA = "/etc/keystone/pki/kubernetes-ca.crt"


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `endpoint_inputs`."""
    slow = context.site.patience.profile == "emulated"
    source, ca_file = package_source(context)
    return {
        "endpoint_packages": ["haproxy"],
        "endpoint_package_source": source,
        "endpoint_package_ca_file": ca_file,
        "endpoint_ca_file": KUBERNETES_CA,
        # A worker gets it in the answer to its join request (keystone.join.server).
        "endpoint_ca": "",
        "endpoint_listen": kubeadm.ENDPOINT,
        "endpoint_servers": [
            {"name": node.name, "address": f"{node.address}:6443"}
            for node in context.site.control_planes
        ],
        "endpoint_connect_seconds": 60 if slow else 5,
        "endpoint_check_seconds": 30 if slow else 5,
        "endpoint_check_again_seconds": 30 if slow else 1,
    }


def package_source(context: Context) -> tuple[str, str]:
    """Return the host's package source, and the CA file to verify it with.

    A Primer installs packages from its own store, any other host from a Primer.
    """
    if context.host in context.site.primers:
        return f"directory:{STORE}/apt/{CODENAME}", ""
    return apt_line(context), SITE_CA


def apt_line(context: Context) -> str:
    """Return the apt source of a host without a store: one Primer, over TLS."""
    address = primers_for(context)[0].address
    return f"deb [trusted=yes] https://{address}:8443/apt/{CODENAME} ./"
