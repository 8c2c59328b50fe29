"""What the role `node` is told: kubelet, kubeadm's join document, and a one-time token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import kubeadm

if TYPE_CHECKING:
    from keystone.inventory import Context

VOLATILE = ("node_token", "node_ca_hash")
"""Given when the role is applied (keystone.join.mint); another one changes nothing on the host."""

SERVICE_ROUTE_UNIT = """\
[Unit]
Description=Keep packets for the cluster's services on this machine
# Until kube-proxy has its rules, a packet for a service would follow the default route and leave
# the site. It ends in a dummy device instead; with the rules it is redirected before it gets there.
Before=kubelet.service
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-/usr/sbin/ip link add keystone-svc type dummy
ExecStart=/usr/sbin/ip link set keystone-svc up
ExecStart=/usr/sbin/ip route replace {services} dev keystone-svc src {address}
"""

KUBELET_UNIT = """\
[Unit]
Description=kubelet: the Kubernetes node agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
Requires=keystone-service-route.service
After=network-online.target containerd.service keystone-service-route.service
# kubeadm writes it; until then there is nothing to run.
ConditionPathExists=/var/lib/kubelet/config.yaml

[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
{environment}ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS \
$KUBELET_KUBEADM_ARGS
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
        "node_files": kubelet_files(context),
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


def kubelet_files(context: Context) -> list[dict[str, str]]:
    """The unit of kubelet, the route that it needs, and the resolver that it hands to pods."""
    route = SERVICE_ROUTE_UNIT.format(
        services=context.site.networks.services, address=context.host.address
    )
    patience = kubeadm.PATIENCE[context.site.patience.profile]
    environment = "".join(f"Environment={k}={v}\n" for k, v in patience.environment.items())
    texts = {
        "/etc/systemd/system/kubelet.service": KUBELET_UNIT.format(environment=environment),
        "/etc/systemd/system/keystone-service-route.service": route,
        kubeadm.RESOLV_CONF: RESOLV_CONF,
    }
    return [{"path": path, "mode": "0644", "content": text} for path, text in texts.items()]
