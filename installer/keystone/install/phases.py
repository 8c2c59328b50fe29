"""The table of contents of an installation. Each phase is one pure function.

A role brings one host into its state; a phase says which hosts need which playbook, and which
conditions the whole site must meet before the next phase starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keystone.install import from_backup, leaving, quorum, sealing, standing
from keystone.install import trust as trusts
from keystone.install.actions import (
    Converge,
    IngestStore,
    LabelNodes,
    PublishConfiguration,
    PushInstaller,
    PushSeed,
    RewriteSecrets,
    WaitKey,
    WaitNodes,
    WaitWorkloads,
    World,
)
from keystone.install.engine import Action, Phase
from keystone.install.trust import EncryptSecrets, InitTrust
from keystone.pki.encryption import READABLE, REQUIRED, WRITTEN
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from keystone.install.state import State
    from keystone.site.model import Node

Actions = Sequence[Action[World]]


def trust(state: State) -> Actions:
    """Make the offline root and the issuing CAs; place them and each Primer's own certificates."""
    every = tuple(node.name for node in state.site.primers)
    if not state.trust.complete:
        file = str(state.site.trust.root_key_file) if state.trust.incomplete else ""
        return [InitTrust(file), *trusts.place(every)]
    if state.replacing and (actions := trusts.revoke(state, state.replacing)):
        return actions  # before the new machine has certificates of the same name
    wanting = _wanting(state, ("trust",), state.site.primers)
    needing = state.trust.due | {node.name for node in wanting}
    hosts = tuple(name for name in every if name in needing)
    return trusts.place(hosts) if hosts else []


def time(state: State) -> Actions:
    """Make the Primers the site's clock, and let them resolve each other's names.

    The packages that are needed before the store exists are copied first.
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
    """Create a mirrored pool on each Primer's NVMe disks, with a dataset for each kind of load.

    Without a pool (layout directory, trial sites): create folders.
    """
    hosts, making = [], []
    for node in state.site.primers:
        needed = _storage_actions(state, node)
        if needed or not state.converged(node, "storage"):
            hosts.append(node.name)
            making += [f"{node.name}: {a.describe()}" for a in needed if a.destructive]
    return [Converge("storage", tuple(hosts), ("storage",), "; ".join(making))] if hosts else []


def store(state: State) -> Actions:
    """Bring the bundle's content onto every Primer's pool."""
    wanting = [
        node.name
        for node in state.site.primers
        if state.facts[node.name].store.bundle != state.bundle_digest
        or not state.facts[node.name].store.complete
    ]
    return [IngestStore(tuple(wanting))] if wanting else []


def registry(state: State) -> Actions:
    """Set up registry and package repository on every Primer, as hard links into its store."""
    return _converge(state, "registry", ("registry", "mirror"))


def etcd(state: State) -> Actions:
    """Lead the quorum to the members that the site file names, one safe step after another."""
    return [*quorum.plan(state), *from_backup.etcd(state)]


def control_plane(state: State) -> Actions:
    """Set up kernel, containerd, local endpoint and API servers; kubeadm uses the site's CAs."""
    planes = state.site.control_planes
    old = state.running or planes[:1]
    new = [node for node in planes if node not in old]
    changing = [
        a
        for one in old
        for a in _converge(state, "control_plane", ("control_plane",), nodes=(one,))
    ]
    joining = [
        *from_backup.nodes(state, new),
        *_joining(state, new, "control_plane"),
    ]
    # Those that run change one after another, and publish the configuration for those that join.
    # A single one would take the API away while its server restarts: others join before it.
    if changing and joining and len(state.running) == 1:
        order = [PublishConfiguration(old[0].name), *joining, *changing]
    else:
        order = [*changing, *joining]
    return [*_runtime(state, planes, "control_plane"), *_stale(state, new), *order]


def addons(state: State) -> Actions:
    """Install pod network, storage class on ZFS, CoreDNS and kube-proxy."""
    planes = state.site.control_planes
    if any(state.converged(node, "addons") for node in planes):
        return []
    return _converge(state, "addons", ("addons",), nodes=[state.api])


def nodes(state: State) -> Actions:
    """Join the Primers that only carry pods; workers join later, by token."""
    joining = [node for node in state.site.primers if node.kubelet and not node.control_plane]
    return [
        *_runtime(state, joining, "node"),
        *_stale(state, joining),
        *from_backup.nodes(state, joining),
        *_joining(state, joining, "node"),
    ]


def seal(state: State) -> Actions:
    """Seal the keys of every Primer: whoever has its disk alone opens nothing."""
    return sealing.plan(state)


def leave(state: State) -> Actions:
    """Take the Primers out that the site file does not name any more."""
    return leaving.plan(state)


def join_service(state: State) -> Actions:
    """Start the service that answers joining workers."""
    return _converge(state, "join", ("join",), nodes=state.site.control_planes)


def maintenance(state: State) -> Actions:
    """Start the timer on every Primer that does the regular work."""
    return _converge(state, "maintain", ("maintain",))


def verify(state: State) -> Actions:
    """Wait until every node is Ready and labelled with its pool, every workload available.

    Then encrypt the secrets in etcd. This comes last: on an older site a webhook or a controller
    may block it until the timeout, and all other actions have then been applied.
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
    return [*actions, *_encryption(state), *from_backup.end(state)]


PHASES: tuple[Phase[World, State], ...] = (
    Phase("trust", "make the site's certificate authorities and certificates", trust),
    Phase("time", "make the Primers the site's clock", time),
    Phase("storage", "create ZFS pools on NVMe", prepare_storage),
    Phase("store", "bring the bundle onto every Primer's pool", store),
    Phase("registry", "set up registry and package repository on every Primer", registry),
    Phase("etcd", "set up the etcd quorum over TLS", etcd),
    # Before the API server, which uses most of a small machine: the join service does not need
    # the API server until the first worker joins.
    Phase("join service", "start the service that answers joining workers", join_service),
    Phase("control plane", "set up the API servers with kubeadm", control_plane),
    Phase("add-ons", "install pod network, storage class, DNS, service proxy", addons),
    Phase("nodes", "join the Primers that only carry pods", nodes),
    # Before a Primer leaves that opens for others, and after API servers mount what is opened.
    Phase("seal", "seal the keys on every Primer's disk so that the others open them", seal),
    Phase("removal", "take out the Primers that the site file does not name any more", leave),
    Phase("maintenance", "start the timer of the maintenance", maintenance),
    Phase("verify", "check nodes and workloads, encrypt secrets in etcd", verify),
)


def _storage_actions(
    state: State, node: Node
) -> Sequence[storage.StorageAction | storage.MakeFolder]:
    spec, seen = storage.spec_of(state.site.storage, node), state.facts[node.name]
    if not state.site.storage.on_pool:
        return storage.plan_folders(spec, seen.folders)
    note = seen.intent  # recorded before a pool is created: one that is incomplete may be remade
    return storage.plan(spec, seen, storage.Intent(note.pool, note.serials) if note else None)


def _wanting(state: State, roles: Sequence[str], among: Sequence[Node]) -> list[Node]:
    return [node for node in among if not all(state.converged(node, role) for role in roles)]


def _converge(
    state: State,
    playbook: str,
    roles: tuple[str, ...],
    *,
    nodes: Sequence[Node] | None = None,
) -> list[Action[World]]:
    """Plan one playbook run over the hosts on which any of the roles is not converged.

    nodes: by default the Primers.
    """
    among = state.site.primers if nodes is None else nodes
    wanting = _wanting(state, roles, among)
    return [Converge(playbook, tuple(node.name for node in wanting), roles)] if wanting else []


def _runtime(state: State, nodes: Sequence[Node], role: str) -> list[Action[World]]:
    """Plan what kubelet needs, on hosts that `role` will make nodes of the cluster."""
    roles = ("kernel", "containerd", "endpoint")
    groups = _side_by_side(state, nodes, role)
    return [a for group in groups for a in _converge(state, "runtime", roles, nodes=group)]


def _joining(state: State, nodes: Sequence[Node], role: str) -> list[Action[World]]:
    """Plan the joins: several hosts at once, or one by one for an emulated API server."""
    together = state.site.patience.profile != "emulated"
    groups = _side_by_side(state, nodes, role) if together else [[node] for node in nodes]
    return [a for group in groups for a in _converge(state, role, (role,), nodes=group)]


def _side_by_side(state: State, nodes: Sequence[Node], role: str) -> list[list[Node]]:
    """Group hosts: those without the role together, as nothing runs there; the others singly."""
    new = [node for node in nodes if role not in state.facts[node.name].roles]
    return [new, *([node] for node in nodes if node not in new)]


def _stale(state: State, nodes: Sequence[Node]) -> list[Action[World]]:
    """Plan to delete the node of a machine that was replaced: the new one joins by its name."""
    there = {node.name for node in state.cluster.nodes} if state.cluster else set()
    return [
        leaving.DeleteNode(node.name)
        for node in nodes
        if node.name in state.replacing
        and node.name in there
        and not standing.joined(state.facts[node.name])
    ]


def _encryption(state: State) -> list[Action[World]]:
    """Plan the steps until etcd holds no secret as plain text; none on a site that began so."""
    hosts = tuple(node.name for node in state.site.primers)
    placed = Converge("trust", hosts, ("trust",))
    begin: list[Action[World]] = [EncryptSecrets(WRITTEN, hosts), placed]
    return {
        READABLE: [*begin, WaitKey(), RewriteSecrets(), EncryptSecrets(REQUIRED, hosts), placed],
        WRITTEN: [WaitKey(), RewriteSecrets(), EncryptSecrets(REQUIRED, hosts), placed],
        REQUIRED: [],
    }[state.trust.encryption]


def _push_installer(state: State) -> list[Action[World]]:
    """Plan to copy the bundle's own installer to every Primer that lacks it."""

    def has(node: Node) -> bool:
        seen = state.facts[node.name].roles.get("installer")
        return seen is not None and seen.inputs == state.installer_digest and not seen.drift

    wanting = tuple(node.name for node in state.site.primers if not has(node))
    return [PushInstaller(wanting)] if wanting else []
