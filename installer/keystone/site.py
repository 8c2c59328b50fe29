"""The site file: what a person asks for. Frozen; loading returns a Site or all the mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True)
class Disk:
    """One disk that may be used, named by what does not change: its serial number."""

    serial: str


@dataclass(frozen=True)
class Node:
    """A Primer: a machine of the root of trust, the quorum and the store.

    control_plane: it runs an API server. kubelet: it is a node of the cluster too.
    """

    name: str
    address: IPv4Address
    disks: tuple[Disk, ...] = ()
    control_plane: bool = True
    kubelet: bool = True


@dataclass(frozen=True)
class Ssh:
    """How the first Primer reaches the others."""

    user: str = "root"
    port: int = 22
    key_file: str = ""


@dataclass(frozen=True)
class Networks:
    """Address ranges; they must not overlap. `nodes` holds every Primer and LAN worker."""

    nodes: IPv4Network
    pods: IPv4Network = IPv4Network("10.244.0.0/16")
    services: IPv4Network = IPv4Network("10.96.0.0/16")
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True)
class Storage:
    """The pool on every Primer. layout: "mirror" (2 disks) or "single" (1, with a warning)."""

    pool: str = "keystone"
    layout: str = "mirror"
    ashift: int = 12


@dataclass(frozen=True)
class Trust:
    """Where the offline root's encrypted key is put for the operator to carry away.

    passphrase_file: read once, never copied; without it the passphrase is asked for.
    """

    root_key_file: str = ""
    passphrase_file: str = ""


@dataclass(frozen=True)
class Patience:
    """How patient the cluster's parts are with slow machines: "normal" or "emulated".

    Emulated machines lose leases and fail probes under load: longer deadlines, no leader election
    where there is one replica.
    """

    profile: str = "normal"


@dataclass(frozen=True)
class Site:
    """One site, as its file says it."""

    name: str
    primers: tuple[Node, ...]
    networks: Networks
    ssh: Ssh = field(default_factory=Ssh)
    storage: Storage = field(default_factory=Storage)
    trust: Trust = field(default_factory=Trust)
    patience: Patience = field(default_factory=Patience)
    time_sources: tuple[str, ...] = ()

    @property
    def control_planes(self) -> tuple[Node, ...]:
        """The Primers that run an API server, first one first."""
        return tuple(node for node in self.primers if node.control_plane)
