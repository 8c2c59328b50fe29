"""What the role `node` is told: kubelet, kubeadm's join document, and a one-time token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import kubeadm

if TYPE_CHECKING:
    from keystone.inventory import Context

VOLATILE = ("node_token", "node_ca_hash")
"""Given when the role is applied (keystone.join.mint); another one changes nothing on the host."""

KUBELET_UNIT = """\
[Unit]
Description=kubelet: the Kubernetes node agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target containerd.service
# kubeadm writes it; until then there is nothing to run.
ConditionPathExists=/var/lib/kubelet/config.yaml

[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
CPUAccounting=true
MemoryAccounting=true

[Install]
WantedBy=multi-user.target
"""
RESOLV_CONF = "# Written by Keystone: pods ask the cluster's DNS and nobody else.\n"


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `node_inputs`; VOLATILE ones are empty."""
    return {
        "node_name": context.host.name,
        "node_programs": programs(context),
        "node_files": kubelet_files(),
        "node_join": kubeadm.join_document(context),
        "node_token": "",
        "node_ca_hash": "",
        "node_lock_seconds": kubeadm.PATIENCE[context.site.patience.profile].wait * 2,
    }


def programs(context: Context) -> list[dict[str, str]]:
    """kubelet, kubeadm and kubectl, as keystone_files takes files."""
    return [
        {"path": f"/usr/local/bin/{name}", "mode": "0755",
         "source": context.bundle.item("binary", name).path}
        for name in ("kubelet", "kubeadm", "kubectl")
    ]  # fmt: skip


def kubelet_files() -> list[dict[str, str]]:
    """Kubelet's unit and the resolver that it hands to pods."""
    return [
        {"path": "/etc/systemd/system/kubelet.service", "mode": "0644", "content": KUBELET_UNIT},
        {"path": kubeadm.RESOLV_CONF, "mode": "0644", "content": RESOLV_CONF},
    ]
