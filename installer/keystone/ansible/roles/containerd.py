"""Variables of the role `containerd`: its programs, and the Primers as the only registries."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from keystone.ansible.roles.kernel import MODULES
from keystone.cluster import kubeadm
from keystone.site import host_profile

if TYPE_CHECKING:
    from keystone.cluster.context import Context
    from keystone.site.model import Node

REGISTRY_PORT = 5000
CERTS = "/etc/containerd/certs.d"
ROOT = "/var/lib/containerd"
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `containerd_inputs`."""
    profile = context.site.patience.profile
    slow = profile == "emulated"
    can = host_profile.of(context.site)
    upstreams = upstream_hosts(context)
    return {
        "containerd_programs": _programs(context),
        "containerd_mirrors": [
            {"path": f"{CERTS}/{name}/hosts.toml", "mode": "0644", "content": text}
            for name, text in mirrors(context).items()
        ],
        "containerd_directories": [
            *(
                {"path": path, "mode": "0755"}
                for path in (
                    "/etc/containerd", CERTS,
                    *(f"{CERTS}/{name}" for name in (*upstreams, "_default")),
                    "/etc/cni", "/etc/cni/net.d", "/opt/cni", "/opt/cni/bin",
                )
            ),
            # containerd sets this mode at each start (cmd/containerd/server/server.go).
            {"path": ROOT, "mode": "0700"},
        ],
        "containerd_sandbox_image": kubeadm.image_ref(context.bundle, "registry.k8s.io/pause"),
        "containerd_root": ROOT,
        "containerd_on_pool": _has_pool(context),
        "containerd_kernel_modules": list(MODULES),
        "containerd_kernel_modules_required": can.own_kernel,
        "containerd_lowers_oom_score": can.own_memory,
        "containerd_pull_timeout": "30m" if slow else "5m",
        "containerd_stats_period": "60s" if slow else "10s",
        "containerd_start_timeout_seconds": 900 if slow else 120,
        "containerd_environment": dict(kubeadm.patience_of(context.site).environment),
    }  # fmt: skip


def _has_pool(context: Context) -> bool:
    return context.site.storage.on_pool and context.host in context.site.primers


def upstream_hosts(context: Context) -> list[str]:
    """Return the upstream registries in the names of the bundle's images."""
    return sorted({item.name.split("/", 1)[0] for item in context.bundle.of_kind("image")})


def mirrors(context: Context) -> dict[str, str]:
    """Return the text of hosts.toml by upstream host (containerd, docs/hosts.md).

    `server` is a Primer too, so containerd never contacts the upstream itself. `_default` applies
    to every other registry: it points to a Primer, which answers 404.
    """
    order = primers_for(context)
    found = {name: _hosts(order, f"/v2/{name}", override=True) for name in upstream_hosts(context)}
    return {**found, "_default": _hosts(order, "", override=False)}


def primers_for(context: Context) -> list[Node]:
    """Return all Primers: on a Primer, itself first; workers start at different ones."""
    primers = list(context.site.primers)
    if context.host in primers:
        start = primers.index(context.host)
    else:
        start = zlib.crc32(context.host.name.encode()) % len(primers)
    return primers[start:] + primers[:start]


def _hosts(order: list[Node], path: str, *, override: bool) -> str:
    urls = [f"https://{node.address}:{REGISTRY_PORT}{path}" for node in order]
    options = ['capabilities = ["pull", "resolve"]', 'ca = "/etc/keystone/pki/site-ca.crt"']
    if override:
        options.append("override_path = true")
    # containerd tries `server` after all hosts: the last Primer, so that each is tried once.
    lines = [f'server = "{urls[-1]}"', *options]
    for url in urls[:-1]:
        lines += ["", f'[host."{url}"]', *(f"  {line}" for line in options)]
    return "\n".join(lines) + "\n"


def _programs(context: Context) -> list[dict[str, str]]:
    bundle = context.bundle
    containerd, plugins = bundle.item("binary", "containerd"), bundle.item("binary", "cni-plugins")
    return [
        *(
            {"path": f"/usr/local/bin/{name}", "mode": "0755",
             "source": containerd.path, "member": f"bin/{name}"}
            for name in CONTAINERD_PROGRAMS
        ),
        *(
            {"path": f"/opt/cni/bin/{name}", "mode": "0755",
             "source": plugins.path, "member": name}
            for name in CNI_PLUGINS
        ),
        {"path": "/usr/local/sbin/runc", "mode": "0755",
         "source": bundle.item("binary", "runc").path},
    ]  # fmt: skip
