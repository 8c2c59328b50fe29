"""The table of contents of an installation. Each phase is one pure function.

Roles converge what lies on one host; a phase says which hosts need which playbook, and what has to
be true of the whole site before the next one starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keystone.install.actions import (
    Converge,
    EncryptSecrets,
    IngestStore,
    InitTrust,
    LabelNodes,
    PushInstaller,
    PushSeed,
    RewriteSecrets,
    WaitEtcd,
    WaitKey,
    WaitNodes,
    WaitWorkloads,
    World,
)
from keystone.install.engine import Action, Phase
from keystone.pki.encryption import READABLE, REQUIRED, WRITTEN
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from keystone.install.state import State
    from keystone.site.model import Node

Actions = Sequence[Action[World]]


def trust(state: State) -> Actions:
    """The offline root, the issuing CAs, and each Primer's own certificates in place."""
    first: list[Action[World]] = []
    if not state.trust.complete:
        new = bool(state.trust.incomplete)
        first.append(InitTrust(str(state.site.trust.root_key_file) if new else ""))
        return [*first, *_converge(state, "trust", ("trust",), assume=True)]
    return _converge(state, "trust", ("trust",))


def time(state: State) -> Actions:
    """The Primers are the site's clock and know each other's names.

    The packages that cannot wait for the store go ahead.
    """
    roles = ("names", "seed", "time")
    wanting = _wanting(state, roles, state.site.primers)
    seeding = tuple(node.name for node in _wanting(state, ("seed",), state.site.primers))
    return [
        *_push_installer(state),
        *([PushSeed(seeding)] if seeding else []),
        *([Converge("time", tuple(n.name for n in wanting), roles)] if wanting else []),
    ]


def prepare_storage(state: State) -> Actions:
    """A mirrored pool on each Primer's NVMe disks, with a dataset for each kind of load.

    Without a pool (layout directory, trial sites) folders.
    """
    hosts, making = [], []
    for node in state.site.primers:
        needed = _storage_actions(state, node)
        if needed or not state.converged(node, "storage"):
            hosts.append(node.name)
            making += [f"{node.name}: {a.describe()}" for a in needed if a.destructive]
    return [Converge("storage", tuple(hosts), ("storage",), "; ".join(making))] if hosts else []


def store(state: State) -> Actions:
    """The bundle's content on every Primer's pool."""
    wanting = [
        node.name
        for node in state.site.primers
        if state.facts[node.name].store.bundle != state.bundle_digest
        or not state.facts[node.name].store.complete
    ]
    return [IngestStore(tuple(wanting))] if wanting else []


def registry(state: State) -> Actions:
    """A registry and a package repository on every Primer, filled by links from its store."""
    return _converge(state, "registry", ("registry", "mirror"))


def etcd(state: State) -> Actions:
    """Three members, mutual TLS, healthy."""
    actions = _converge(state, "etcd", ("etcd",))
    healthy = state.etcd is not None and state.etcd.healthy >= len(state.site.primers)
    return actions if healthy else [*actions, WaitEtcd(len(state.site.primers))]


def control_plane(state: State) -> Actions:
    """Kernel, containerd, the local endpoint and the API servers, by kubeadm with our CAs."""
    first, *others = state.site.control_planes
    return [
        *_runtime(state, state.site.control_planes, "control_plane"),
        *_converge(state, "control_plane", ("control_plane",), nodes=(first,)),
        *_joining(state, others, "control_plane"),
    ]


def addons(state: State) -> Actions:
    """Pod network, storage class on ZFS, CoreDNS and kube-proxy."""
    return _converge(state, "addons", ("addons",), nodes=state.site.control_planes[:1])


def nodes(state: State) -> Actions:
    """Primers that only carry pods join as nodes; workers join by token, on their own."""
    joining = [node for node in state.site.primers if node.kubelet and not node.control_plane]
    return [*_runtime(state, joining, "node"), *_joining(state, joining, "node")]


def join_service(state: State) -> Actions:
    """What answers joining workers."""
    return _converge(state, "join", ("join",), nodes=state.site.control_planes)


def verify(state: State) -> Actions:
    """Every node Ready, labelled with its pool, every workload of ours available.

    Then no secret in etcd as plain text: on an older site with a webhook or a controller that is in
    the way, that has no end, and what closes its doors has run before.
    """
    expected = {n.name for n in state.site.primers if n.kubelet or n.control_plane}
    actions: list[Action[World]] = []
    if state.cluster is None or not expected <= set(state.cluster.ready_nodes):
        actions.append(WaitNodes(tuple(sorted(expected))))
    pools = {node.name: node.pool for node in state.cluster.nodes} if state.cluster else {}
    unlabelled = sorted(name for name in expected if pools.get(name) != state.site.storage.pool)
    if unlabelled:
        actions.append(LabelNodes(tuple(unlabelled), state.site.storage.pool))
    if state.cluster is None or state.cluster.unavailable:
        actions.append(WaitWorkloads())
    return [*actions, *_encryption(state)]


PHASES: tuple[Phase[World, State], ...] = (
    Phase("trust", "the site's certificate authorities and certificates", trust),
    Phase("time", "the Primers become the clock", time),
    Phase("storage", "ZFS pools on NVMe", prepare_storage),
    Phase("store", "the bundle on every Primer's pool", store),
    Phase("registry", "registry and package repository on every Primer", registry),
    Phase("etcd", "a quorum over TLS", etcd),
    # Before the API server, which takes most of a small machine: the service waits for its first
    # worker without it.
    Phase("join service", "what answers joining workers", join_service),
    Phase("control plane", "API servers by kubeadm", control_plane),
    Phase("add-ons", "pod network, storage class, DNS, service proxy", addons),
    Phase("nodes", "Primers that carry pods join", nodes),
    Phase("verify", "every node Ready, every workload available, no secret in plain text", verify),
)


def _storage_actions(
    state: State, node: Node
) -> Sequence[storage.StorageAction | storage.MakeFolder]:
    spec, seen = storage.spec_of(state.site.storage, node), state.facts[node.name]
    if not state.site.storage.on_pool:
        return storage.plan_folders(spec, seen.folders)
    note = seen.intent  # a pool whose creation was cut is ours to make again
    return storage.plan(spec, seen, storage.Intent(note.pool, note.serials) if note else None)


def _wanting(state: State, roles: Sequence[str], among: Sequence[Node]) -> list[Node]:
    return [node for node in among if not all(state.converged(node, role) for role in roles)]


def _converge(
    state: State,
    playbook: str,
    roles: tuple[str, ...],
    *,
    nodes: Sequence[Node] | None = None,
    assume: bool = False,
) -> list[Action[World]]:
    """One playbook run over the hosts on which any of its roles is not converged."""
    among = state.site.primers if nodes is None else nodes
    wanting = list(among) if assume else _wanting(state, roles, among)
    return [Converge(playbook, tuple(node.name for node in wanting), roles)] if wanting else []


def _runtime(state: State, nodes: Sequence[Node], role: str) -> list[Action[World]]:
    """What kubelet needs, on hosts that `role` will make nodes of the cluster."""
    roles = ("kernel", "containerd", "endpoint")
    groups = _side_by_side(state, nodes, role)
    return [a for group in groups for a in _converge(state, "runtime", roles, nodes=group)]


def _joining(state: State, nodes: Sequence[Node], role: str) -> list[Action[World]]:
    """Kubeadm joins several hosts at once, which is too much for an emulated API server."""
    together = state.site.patience.profile != "emulated"
    groups = _side_by_side(state, nodes, role) if together else [[node] for node in nodes]
    return [a for group in groups for a in _converge(state, role, (role,), nodes=group)]


def _side_by_side(state: State, nodes: Sequence[Node], role: str) -> list[list[Node]]:
    """Hosts without the role at once, nothing runs there yet; the others one after another."""
    new = [node for node in nodes if role not in state.facts[node.name].roles]
    return [new, *([node] for node in nodes if node not in new)]


def _encryption(state: State) -> list[Action[World]]:
    """What is left until no secret lies in etcd as plain text; nothing on a site that began so."""
    hosts = tuple(node.name for node in state.site.control_planes)
    placed = Converge("trust", hosts, ("trust",))
    begin: list[Action[World]] = [EncryptSecrets(WRITTEN), placed]
    return {
        READABLE: [*begin, WaitKey(), RewriteSecrets(), EncryptSecrets(REQUIRED), placed],
        WRITTEN: [WaitKey(), RewriteSecrets(), EncryptSecrets(REQUIRED), placed],
        REQUIRED: [],
    }[state.trust.encryption]


def _push_installer(state: State) -> list[Action[World]]:
    """The executable of this very bundle, on every Primer."""

    def has(node: Node) -> bool:
        seen = state.facts[node.name].roles.get("installer")
        return seen is not None and seen.inputs == state.installer_digest and not seen.drift

    wanting = tuple(node.name for node in state.site.primers if not has(node))
    return [PushInstaller(wanting)] if wanting else []
