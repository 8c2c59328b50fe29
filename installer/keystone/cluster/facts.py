"""What the quorum and the cluster say of themselves; asked on a Primer, parsed purely."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.cluster.kubeadm import ADMIN_CONF, POOL_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.run import Host, Result

ETCDCTL = "/usr/local/bin/etcdctl"
ETCD_PKI = "/etc/etcd/pki"
KUBECTL = "/usr/local/bin/kubectl"
KUBECTL_ADMIN = (KUBECTL, "--kubeconfig", ADMIN_CONF, "--request-timeout=60s")
"""What asks the API as its administrator, on a control plane."""

ASK_SECONDS = 120
"""Under emulation a loaded member or API server takes most of a minute to answer."""

OURS = ("kube-system", "kube-flannel", "local-path-storage", "keystone-system")
"""Namespaces whose workloads are the platform's own; a site's workloads are its own business."""


@dataclass(frozen=True)
class MemberFacts:
    """One etcd member. id: hexadecimal, as etcdctl takes it; name is empty until it started."""

    id: str
    name: str
    healthy: bool
    learner: bool = False


@dataclass(frozen=True)
class EtcdFacts:
    """The members that etcd itself lists; none when no member answers."""

    members: tuple[MemberFacts, ...] = ()

    @property
    def healthy(self) -> int:
        """How many voting members answer."""
        return sum(member.healthy and not member.learner for member in self.members)


@dataclass(frozen=True)
class NodeFacts:
    """One node of the cluster. pool: the pool that its label names, "" without one."""

    name: str
    ready: bool
    addresses: tuple[str, ...] = ()
    version: str = ""
    pool: str = ""


@dataclass(frozen=True)
class WorkloadFacts:
    """One Deployment or DaemonSet: how many replicas it wants and how many are available."""

    kind: str
    namespace: str
    name: str
    wanted: int
    available: int


@dataclass(frozen=True)
class ClusterFacts:
    """The nodes, and the platform's own workloads."""

    nodes: tuple[NodeFacts, ...] = ()
    workloads: tuple[WorkloadFacts, ...] = ()

    @property
    def ready_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are Ready."""
        return tuple(node.name for node in self.nodes if node.ready)

    @property
    def unavailable(self) -> tuple[str, ...]:
        """Workloads with fewer replicas than they want: "kube-system/coredns (0 of 1)"."""
        return tuple(
            f"{load.namespace}/{load.name} ({load.available} of {load.wanted})"
            for load in self.workloads
            if load.available < load.wanted
        )


def observe_etcd(host: Host) -> EtcdFacts:
    """Ask the quorum, on a Primer. No answer is no members. Raises HostError: host unreachable."""

    # Without a quorum these fail and print nothing: that is an answer, hence check=False.
    def ask(words: str) -> Result:
        return host.run(_etcdctl(*words.split()), check=False, timeout=ASK_SECONDS)

    with ThreadPoolExecutor(2) as pool:
        members, health = pool.map(ask, ("member list", "endpoint health --cluster"))
    return parse_etcd(_json(members.stdout) or {}, _json(health.stdout) or [])


def _etcdctl(*words: str) -> list[str]:
    return [
        ETCDCTL, "--endpoints", "https://127.0.0.1:2379", "--write-out", "json",
        "--command-timeout", "20s", "--dial-timeout", "10s",
        "--cacert", f"{ETCD_PKI}/peer-ca.crt",
        "--cert", f"{ETCD_PKI}/client.crt", "--key", f"{ETCD_PKI}/client.key", *words,
    ]  # fmt: skip


def parse_etcd(members: Mapping[str, Any], health: Sequence[Mapping[str, Any]]) -> EtcdFacts:
    """From `etcdctl member list` and `endpoint health --cluster`, both with -w json."""
    well = {entry["endpoint"] for entry in health if entry.get("health")}
    return EtcdFacts(
        tuple(
            MemberFacts(
                id=f"{int(member['ID']):x}",
                name=member.get("name", ""),
                healthy=any(url in well for url in member.get("clientURLs", ())),
                learner=member.get("isLearner", False),
            )
            for member in members.get("members", ())
        )
    )


def observe_cluster(host: Host) -> ClusterFacts | None:
    """Ask the API, on a control plane; None when it does not answer.

    Raises HostError when the host cannot be reached.
    """
    what = "nodes,deployments.apps,daemonsets.apps"
    argv = [*KUBECTL_ADMIN, "get", what, "--all-namespaces", "-o", "json"]
    result = host.run(argv, check=False, timeout=ASK_SECONDS)
    answer = _json(result.stdout) if result.returncode == 0 else None
    return None if answer is None else parse_cluster(answer)


def parse_cluster(answer: Mapping[str, Any]) -> ClusterFacts:
    """From `kubectl get nodes,deployments,daemonsets -A -o json` (a v1 List)."""
    items = answer.get("items", [])
    nodes = tuple(_node(item) for item in items if item["kind"] == "Node")
    ready = sum(node.ready for node in nodes)
    return ClusterFacts(
        nodes=nodes,
        workloads=tuple(
            _workload(item, ready)
            for item in items
            if item["kind"] in ("Deployment", "DaemonSet") and item["metadata"]["namespace"] in OURS
        ),
    )


def _node(item: Mapping[str, Any]) -> NodeFacts:
    status = item.get("status", {})
    return NodeFacts(
        name=item["metadata"]["name"],
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions", ())
        ),
        addresses=tuple(
            entry["address"]
            for entry in status.get("addresses", ())
            if entry["type"] == "InternalIP"
        ),
        version=status.get("nodeInfo", {}).get("kubeletVersion", ""),
        pool=item["metadata"].get("labels", {}).get(POOL_LABEL, ""),
    )


def _workload(item: Mapping[str, Any], ready: int) -> WorkloadFacts:
    spec, status = item.get("spec", {}), item.get("status", {})
    # A controller that has not seen the newest generation says what was true before it.
    current = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0) if current else 1
        # Nodes that are off count too; WaitNodes misses those that have to be there.
        wanted = min(wanted, max(ready, 1))
        available = status.get("numberAvailable", 0) if current else 0
    else:
        wanted = spec.get("replicas", 1)
        available = status.get("availableReplicas", 0) if current else 0
    return WorkloadFacts(
        item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], wanted, available
    )


def _json(text: str) -> Any:  # noqa: ANN401 whatever the tool says
    stripped = text.strip()
    return json.loads(stripped) if stripped.startswith(("{", "[")) else None
