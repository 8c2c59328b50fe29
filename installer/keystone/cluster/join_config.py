"""The configuration of a Primer's join service: the part of site and bundle that workers need.

The role `join` writes it as JSON; the service and `token create` read it. Storage (but for the
pool's name) and trust of the site are left out: workers do not need them. Gateway, public keys and
the lowest allowed system version are for join.yaml (join_yaml.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone.bundle.model import Digest, Item, Manifest
from keystone.errors import HostError
from keystone.site.model import Networks, Node, Patience, Site, Ssh, Storage

if TYPE_CHECKING:
    from keystone.cluster.context import Context

PORT = 8444
"""The service's port on every Primer, over TLS."""
PATH = Path("/var/lib/keystone/join/config.json")
SOCKET = Path("/run/keystone-join/socket")
"""The socket on which the service listens; nginx forwards requests to it."""
KINDS = ("binary", "image", "installer")


@dataclass(frozen=True)
class Config:
    """The join service's configuration. host: the Primer on which it runs."""

    site: Site
    bundle: Manifest
    host: Node


def dump(context: Context) -> str:
    """Return the JSON that `load` reads."""
    site, networks = context.site, context.site.networks
    return json.dumps(
        {
            "name": site.name,
            "host": context.host.name,
            "primers": [
                {
                    "name": node.name,
                    "address": str(node.address),
                    "control_plane": node.control_plane,
                    "kubelet": node.kubelet,
                }
                for node in site.primers
            ],
            "networks": {
                "nodes": str(networks.nodes),
                "pods": str(networks.pods),
                "services": str(networks.services),
                "cluster_domain": networks.cluster_domain,
                "gateway": str(networks.gateway or ""),
            },
            "authorized_keys": list(site.ssh.authorized_keys),
            "system_floor": site.system_floor,
            "trial": site.trial,
            "pool": site.storage.pool,
            "patience": site.patience.profile,
            "bundle": {
                "name": context.bundle.name,
                "number": context.bundle.number,
                "items": [
                    [item.kind, item.name, item.version, str(item.digest), item.size]
                    for kind in KINDS
                    for item in context.bundle.of_kind(kind)
                ],
            },
        },
        indent=1,
    )


def load(path: Path = PATH) -> Config:
    """Read the configuration. Raises HostError if this host has no join service (no file)."""
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise HostError(
            f"{path}: this host has no join service",
            hint="run this on a Primer with a control plane, after the installation",
        ) from error
    return parse(fields)


def parse(fields: dict[str, Any]) -> Config:
    """Return the JSON's content, typed; fields missing in an older installer's get defaults."""
    networks, bundle = fields["networks"], fields["bundle"]
    primers = tuple(
        Node(**{**node, "address": IPv4Address(node["address"])}) for node in fields["primers"]
    )
    site = Site(
        name=fields["name"],
        primers=primers,
        networks=Networks(
            IPv4Network(networks["nodes"]),
            IPv4Network(networks["pods"]),
            IPv4Network(networks["services"]),
            networks["cluster_domain"],
            IPv4Address(networks["gateway"]) if networks.get("gateway") else None,
        ),
        ssh=Ssh(authorized_keys=tuple(fields.get("authorized_keys", ()))),
        system_floor=fields.get("system_floor", Site.system_floor),
        trial=fields.get("trial", Site.trial),
        storage=Storage(pool=fields["pool"]),
        patience=Patience(fields["patience"]),
    )
    items = tuple(
        Item(kind, name, version, Digest.parse(digest), size)
        for kind, name, version, digest, size in bundle["items"]
    )
    host = next(node for node in primers if node.name == fields["host"])
    return Config(site, Manifest(bundle["name"], bundle["number"], items), host)
