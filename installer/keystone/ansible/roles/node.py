"""Variables of the role `node`: kubelet, and kubeadm's join document. None is secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.cluster import kubeadm
from keystone.site import host_profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.cluster.context import Context

SERVICE_ROUTE_UNIT = """\
[Unit]
Description=Keep packets for the cluster's services on this machine
# Until kube-proxy has its rules, a packet for a service would follow the default route and leave
# the site. This route discards it; once the rules exist, they redirect packets before routing.
Before=kubelet.service
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-/usr/sbin/ip link add keystone-svc {device}
ExecStart=/usr/sbin/ip link set keystone-svc up
ExecStart=/usr/sbin/ip route replace {services} dev keystone-svc src {address}
"""

KUBELET_UNIT = """\
[Unit]
Description=kubelet: the Kubernetes node agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
Requires=keystone-service-route.service{requires}
After=network-online.target containerd.service keystone-service-route.service{requires}
# kubeadm writes this file; before that kubelet cannot run.
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
SETTINGS_UNIT = """\
[Unit]
Description=Show kubelet the kernel settings and the kernel log that it wants
# kubelet makes these settings itself if it can. In a container they belong to another machine and
# are read-only, and kubelet would exit: so a file with the wanted value is mounted over each;
# nothing in the kernel changes. kubelet would also exit without /dev/kmsg: if it is missing, a
# substitute is made.
ConditionPathIsReadWrite=!/proc/sys/kernel
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c '[ -e /dev/kmsg ] || mknod -m 600 /dev/kmsg c 1 3'
{commands}"""
SETTINGS_UNIT_NAME = "keystone-kernel-settings.service"
SETTINGS = "/usr/local/lib/keystone/kernel-settings"
RESOLV_CONF = "# Written by Keystone: pods use only the DNS of the cluster.\n"


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `node_inputs`; join.identity places the identity."""
    return {
        "node_name": context.host.name,
        "node_programs": programs(context),
        "node_files": kubelet_files(context),
        "node_join": kubeadm.join_document(context),
        "node_lock_seconds": kubeadm.patience_of(context.site).wait * 2,
    }


def programs(context: Context) -> list[dict[str, str]]:
    """Return kubelet, kubeadm and kubectl in the format of keystone_host's files."""
    return [
        {"path": f"/usr/local/bin/{name}", "mode": "0755",
         "source": context.bundle.item("binary", name).path}
        for name in ("kubelet", "kubeadm", "kubectl")
    ]  # fmt: skip


def kubelet_files(context: Context) -> list[dict[str, str]]:
    """Return kubelet's unit, the route that it needs, and the resolv.conf that it gives pods."""
    profile = host_profile.of(context.site)
    route = SERVICE_ROUTE_UNIT.format(
        services=context.site.networks.services,
        address=context.host.address,
        device=profile.sink,
    )
    patience = kubeadm.patience_of(context.site)
    environment = "".join(f"Environment={k}={v}\n" for k, v in patience.environment.items())
    texts = {
        "/etc/systemd/system/kubelet.service": KUBELET_UNIT.format(
            environment=environment,
            requires=f" {SETTINGS_UNIT_NAME}" if profile.shown_settings else "",
        ),
        "/etc/systemd/system/keystone-service-route.service": route,
        kubeadm.RESOLV_CONF: RESOLV_CONF,
        **_settings_files(profile.shown_settings),
    }
    return [{"path": path, "mode": "0644", "content": text} for path, text in texts.items()]


def _settings_files(settings: Mapping[str, int]) -> dict[str, str]:
    """Return a unit that binds a file over each setting, and those files; none for no settings."""
    if not settings:
        return {}
    places = {f"{SETTINGS}.{name}": f"/proc/sys/{name.replace('.', '/')}" for name in settings}
    commands = "".join(
        f"ExecStart=/usr/bin/mount --bind {ours} {place}\n" for ours, place in places.items()
    )
    unit = {f"/etc/systemd/system/{SETTINGS_UNIT_NAME}": SETTINGS_UNIT.format(commands=commands)}
    return {**unit, **{f"{SETTINGS}.{name}": f"{value}\n" for name, value in settings.items()}}
