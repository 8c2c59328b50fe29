"""The configuration of kubeadm, kubelet and kube-proxy, computed from the site.

Sources: kubeadm.k8s.io/v1beta4, kubelet.config.k8s.io/v1beta1, kubeproxy.config.k8s.io/v1alpha1 of
the release in the bundle. Pure; tests validate the result with the real kubeadm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import yaml

from keystone.cluster import audit
from keystone.pki import encryption, seal
from keystone.pki.host_files import SIGNER
from keystone.site import host_profile

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from keystone.bundle.model import Manifest
    from keystone.cluster.context import Context
    from keystone.site.model import Node, Site

AUTHORITY = "/etc/kubernetes/pki/ca.crt"
"""The CA file by which a control plane verifies its API server."""
ENDPOINT = "127.0.0.1:7443"
"""haproxy on every node (role `endpoint`): all nodes use this address for the API."""
CRI_SOCKET = "unix:///run/containerd/containerd.sock"
RESOLV_CONF = "/etc/kubernetes/resolv.conf"
CONFIG = "/etc/kubernetes/keystone"
POOL_LABEL = "node-restriction.kubernetes.io/keystone-pool"
"""The installer sets it: a kubelet may not set labels with this prefix (NodeRestriction)."""
ADMIN_CONF = "/etc/kubernetes/admin.conf"
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"


@dataclass(frozen=True)
class Patience:
    """The timeouts of one of the site's patience profiles, in seconds."""

    wait: int
    api_call: int
    node_status: int
    lease: int
    node_grace: int
    probe: int
    proxy_sync: int
    housekeeping: int
    """Interval at which kubelet measures each container's use; 0 keeps kubelet's default of 10."""
    environment: Mapping[str, str]
    """For Go's runtime in static pods, etcd, containerd and kubelet. On emulated processors each
    thread that Go wakes is expensive, and memory is less scarce."""

    @property
    def patched(self) -> bool:
        """True if static pods get other probes than kubeadm's default."""
        return self.probe > 0


PATIENCE = {
    "normal": Patience(
        wait=300,
        api_call=60,
        node_status=10,
        lease=40,
        node_grace=50,
        probe=0,
        proxy_sync=30,
        housekeeping=0,
        environment={},
    ),
    "emulated": Patience(
        wait=2400,
        api_call=600,
        node_status=60,
        lease=300,
        node_grace=900,
        probe=60,
        proxy_sync=120,
        housekeeping=60,
        environment={"GOMAXPROCS": "1", "GOGC": "300"},
    ),
}


def patience_of(site: Site) -> Patience:
    """Return the timeouts of the site's profile, adjusted to the kind of its hosts."""
    usual, can = PATIENCE[site.patience.profile], host_profile.of(site)
    return replace(
        usual,
        housekeeping=max(usual.housekeeping, can.housekeeping),
        environment={**can.environment, **usual.environment},
    )


def image_tag(bundle: Manifest, name: str) -> str:
    """Return the tag of an image in the bundle."""
    return bundle.item("image", name).version


def image_ref(bundle: Manifest, name: str) -> str:
    """Return the full reference by which containerd pulls an image of the bundle."""
    return f"{name}:{image_tag(bundle, name)}"


def version(bundle: Manifest) -> str:
    """Return the version of Kubernetes, with the leading v."""
    return "v" + bundle.item("binary", "kubeadm").version.removeprefix("v")


def dump(*documents: Mapping[str, object]) -> str:
    """Return YAML documents with their keys in the given order."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True)


class _Plain(yaml.SafeDumper):
    """Writes no anchors: people read these files."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def init_documents(context: Context) -> str:
    """Return all documents for `kubeadm init` on one control plane."""
    return dump(
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            # kubeadm always makes a token. It must expire: `token create` makes the real ones.
            "bootstrapTokens": [{"ttl": "1m0s", "description": "made and forgotten by init"}],
            "localAPIEndpoint": {
                "advertiseAddress": str(context.host.address),
                "bindPort": 6443,
            },
            "nodeRegistration": _registration(context),
            "patches": {"directory": f"{CONFIG}/patches"},
            "skipPhases": ["addon/coredns"],
            "timeouts": _timeouts(context.site),
        },
        _cluster(context),
        kubelet_configuration(context),
        _proxy_configuration(context.site),
    )


def join_document(context: Context, *, control_plane: bool = False) -> str:
    """Return the document for `kubeadm join` of a host with a node identity (kubelet.conf).

    kubeadm reads the cluster's configuration with it, and kubelet needs no bootstrap token. A
    control plane's kubelet.conf points to its own API server, which does not run yet: it uses the
    administrator's kubeconfig, which it made itself.
    """
    read = ADMIN_CONF if control_plane else KUBELET_CONF
    extra: dict[str, object] = {}
    if control_plane:
        extra["controlPlane"] = {
            "localAPIEndpoint": {"advertiseAddress": str(context.host.address), "bindPort": 6443}
        }
        extra["patches"] = {"directory": f"{CONFIG}/patches"}
    return dump({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {"file": {"kubeConfigPath": read}},
        "nodeRegistration": _registration(context, joins=True),
        "timeouts": _timeouts(context.site),
        **extra,
    })  # fmt: skip


def patches(site: Site) -> dict[str, str]:
    """Return kubeadm patches by file name: probes with timeouts for slow machines."""
    slow = patience_of(site)
    if not slow.patched:
        return {}
    probe = {"timeoutSeconds": slow.probe, "periodSeconds": 30, "failureThreshold": 60}
    soon = {**probe, "periodSeconds": 10, "failureThreshold": 180}
    both = {"livenessProbe": probe, "startupProbe": soon}
    probes = {
        "kube-apiserver": {**both, "readinessProbe": {**soon, "failureThreshold": 3}},
        "kube-controller-manager": both,
        "kube-scheduler": both,
    }
    return {
        f"{name}+strategic.yaml": dump({"spec": {"containers": [{"name": name, **fields}]}})
        for name, fields in probes.items()
    }


def kubelet_configuration(context: Context) -> dict[str, object]:
    """Return the configuration that `kubeadm init` publishes for all kubelets of the cluster."""
    networks, patience = context.site.networks, patience_of(context.site)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "containerRuntimeEndpoint": CRI_SOCKET,
        "clusterDNS": [str(networks.services[10])],
        "clusterDomain": networks.cluster_domain,
        # Pods get no resolver of the host: CoreDNS answers queries for names outside the cluster.
        "resolvConf": RESOLV_CONF,
        "rotateCertificates": True,
        "failSwapOn": True,
        "nodeStatusUpdateFrequency": f"{patience.node_status}s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": patience.lease,
        "runtimeRequestTimeout": f"{max(120, patience.api_call * 2)}s",
        "shutdownGracePeriod": "30s",
        "shutdownGracePeriodCriticalPods": "10s",
        **host_profile.of(context.site).kubelet,
    }


def _registration(context: Context, *, joins: bool = False) -> dict[str, object]:
    interval = patience_of(context.site).housekeeping
    present = ("FileAvailable--etc-kubernetes-kubelet.conf",) if joins else ()
    ignored = (*host_profile.of(context.site).ignored_preflight, *present)
    return {
        "name": context.host.name,
        "criSocket": CRI_SOCKET,
        # No taint: a Primer with a kubelet carries pods too, as a small site needs all machines.
        "taints": [],
        **({"ignorePreflightErrors": list(ignored)} if ignored else {}),
        "kubeletExtraArgs": _arguments(
            {
                "node-ip": str(context.host.address),
                **({"housekeeping-interval": f"{interval}s"} if interval else {}),
            }
        ),
    }


def _cluster(context: Context) -> dict[str, object]:
    site, patience = context.site, patience_of(context.site)
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": site.name,
        "kubernetesVersion": version(context.bundle),
        "controlPlaneEndpoint": ENDPOINT,
        # As in the trust tree. An RSA key takes a slow machine seconds, and kubeadm makes eight.
        "encryptionAlgorithm": "ECDSA-P256",
        "certificateValidityPeriod": _hours(site.trust.certificate_lifetime),
        "networking": {
            "podSubnet": str(site.networks.pods),
            "serviceSubnet": str(site.networks.services),
            "dnsDomain": site.networks.cluster_domain,
        },
        "etcd": {
            "external": {
                "endpoints": [etcd_url(node) for node in site.primers],
                "caFile": "/etc/kubernetes/pki/etcd/ca.crt",
                "certFile": "/etc/kubernetes/pki/apiserver-etcd-client.crt",
                "keyFile": "/etc/kubernetes/pki/apiserver-etcd-client.key",
            }
        },
        "apiServer": _api_server(site),
        "controllerManager": _controller_manager(site),
        "scheduler": {"extraArgs": _arguments(_election(site)), **_environment(patience)},
        "dns": {
            "imageRepository": "registry.k8s.io/coredns",
            "imageTag": image_tag(context.bundle, "registry.k8s.io/coredns/coredns"),
        },
    }


_OPENED_KEYS = {
    "name": "sealed", "hostPath": str(seal.PLACES.opened), "mountPath": str(seal.PLACES.opened),
    "readOnly": True, "pathType": "DirectoryOrCreate",
}  # fmt: skip
"""The folder to which the keys in /etc/kubernetes/pki are links once they are sealed."""


def _hours(lifetime: dt.timedelta) -> str:
    """Return a duration as Go writes it."""
    hours, seconds = divmod(int(lifetime.total_seconds()), 3600)
    return f"{hours}h{seconds // 60}m0s"


def _api_server(site: Site) -> dict[str, object]:
    answer = f"{max(2, patience_of(site).probe)}s"
    return {
        "certSANs": ["127.0.0.1", "localhost", *_names(site)],
        "extraArgs": _arguments(
            {
                "etcd-healthcheck-timeout": answer,
                "etcd-readycheck-timeout": answer,
                "encryption-provider-config": encryption.PLACE,
                "encryption-provider-config-automatic-reload": "true",
                # Without it a restart waits a minute for watches, which nobody ends.
                "shutdown-watch-termination-grace-period": "10s",
                **audit.arguments(),
            }
        ),
        "extraVolumes": [*audit.volumes(), _OPENED_KEYS],
        **_environment(patience_of(site)),
    }


def _controller_manager(site: Site) -> dict[str, object]:
    patience = patience_of(site)
    return {
        "extraArgs": _arguments(
            {
                "node-monitor-grace-period": f"{patience.node_grace}s",
                "node-monitor-period": f"{max(5, patience.node_status // 3)}s",
                # Kubelets renew their certificates; a revoked one has none after at most this time.
                "cluster-signing-duration": _hours(site.trust.certificate_lifetime),
                # kubeadm names ca.crt, which has two during a rotation: it takes only one.
                "cluster-signing-cert-file": SIGNER,
                **_election(site),
            }
        ),
        "extraVolumes": [_OPENED_KEYS],
        **_environment(patience),
    }


def _environment(patience: Patience) -> dict[str, object]:
    return {"extraEnvs": _arguments(patience.environment)} if patience.environment else {}


def etcd_url(node: Node) -> str:
    """Return the URL at which a member listens for clients."""
    return f"https://{node.address}:2379"


def _names(site: Site) -> list[str]:
    return [text for node in site.control_planes for text in (node.name, str(node.address))]


def _election(site: Site) -> dict[str, str]:
    """Return the arguments for leader election on emulated machines.

    None for one control plane; otherwise leases that survive a slow minute.
    """
    if site.patience.profile != "emulated":
        return {}
    if len(site.control_planes) == 1:
        return {"leader-elect": "false"}
    return {
        "leader-elect-lease-duration": "120s",
        "leader-elect-renew-deadline": "90s",
        "leader-elect-retry-period": "15s",
    }


def _proxy_configuration(site: Site) -> dict[str, object]:
    patience = patience_of(site)
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": str(site.networks.pods),
        "metricsBindAddress": "127.0.0.1:10249",
        "nftables": {"syncPeriod": f"{patience.proxy_sync}s", "minSyncPeriod": "1s"},
        **host_profile.of(site).proxy,
    }


def _timeouts(site: Site) -> dict[str, str]:
    patience = patience_of(site)
    wait, call = f"{patience.wait}s", f"{patience.api_call}s"
    return {
        "controlPlaneComponentHealthCheck": wait,
        "kubeletHealthCheck": wait,
        "discovery": wait,
        "tlsBootstrap": wait,
        "kubernetesAPICall": call,
        "etcdAPICall": call,
    }


def _arguments(arguments: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(arguments.items())]
