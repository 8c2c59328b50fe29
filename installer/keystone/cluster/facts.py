"""Facts about etcd and the cluster: queried on a Primer, parsed by pure functions."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keystone.cluster import etcdctl, known
from keystone.cluster.kubeadm import ADMIN_CONF, POOL_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.run import Host, Result

KUBECTL = "/usr/local/bin/kubectl"
KUBECTL_ADMIN = (KUBECTL, "--kubeconfig", ADMIN_CONF, "--request-timeout=60s")
"""The command that queries the API as administrator, on a control plane."""

ASK_SECONDS = 120
"""Timeout: an emulated member or API server under load takes most of a minute to answer."""

OURS = ("kube-system", "kube-flannel", "local-path-storage", "keystone-system")
"""Namespaces of the platform's own workloads; the workloads of a site's users are not checked."""


@dataclass(frozen=True)
class MemberFacts:
    """One etcd member. id: hexadecimal, as for etcdctl; name: empty until it has started.

    healthy: it answers reads, which a learner refuses. answers: it answers and knows a leader.
    leads: it is the leader. behind: entries of the leader's log that it has not applied yet.
    """

    id: str
    name: str
    healthy: bool
    learner: bool = False
    peers: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    answers: bool = False
    leads: bool = False
    behind: int = 0


@dataclass(frozen=True)
class EtcdFacts:
    """The members that etcd lists; empty if no member answers.

    kept: what Keystone itself keeps in etcd, by key (keystone.cluster.known).
    """

    members: tuple[MemberFacts, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def healthy(self) -> int:
        """The number of voting members that answer."""
        return sum(member.healthy and not member.learner for member in self.members)


@dataclass(frozen=True)
class NodeFacts:
    """One node of the cluster. pool: the pool in its label, "" without the label."""

    name: str
    ready: bool
    addresses: tuple[str, ...] = ()
    version: str = ""
    pool: str = ""


@dataclass(frozen=True)
class WorkloadFacts:
    """One Deployment or DaemonSet: the number of wanted and of available replicas."""

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
        """Workloads with missing replicas, as in "kube-system/coredns (0 of 1)"."""
        return tuple(
            f"{load.namespace}/{load.name} ({load.available} of {load.wanted})"
            for load in self.workloads
            if load.available < load.wanted
        )


def observe_etcd(host: Host) -> EtcdFacts:
    """Query etcd on a Primer; no members if etcd does not answer.

    Raises HostError if the host cannot be reached.
    """

    # Without a quorum these commands fail and print nothing: a valid answer, hence check=False.
    def ask(words: str) -> Result:
        return host.run(etcdctl.words(*words.split()), check=False, timeout=ASK_SECONDS)

    questions = (
        "member list",
        "endpoint health --cluster",
        "endpoint status --cluster",
        f"get --prefix {known.ROOT}",
    )
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = [_json(answer.stdout) for answer in pool.map(ask, questions)]
    members, health, status, kept = answers
    return parse_etcd(members or {}, health or [], status or [], kept or {})


def parse_etcd(
    members: Mapping[str, Any],
    health: Sequence[Mapping[str, Any]],
    status: Sequence[Mapping[str, Any]] = (),
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> EtcdFacts:
    """Parse `member list`, `endpoint health`, `endpoint status` and `get`, all with -w json."""
    well = {entry["endpoint"] for entry in health if entry.get("health")}
    by_id = {answer["Status"]["header"]["member_id"]: answer["Status"] for answer in status}
    newest = max((one.get("raftIndex", 0) for one in by_id.values()), default=0)

    def one(member: Mapping[str, Any]) -> MemberFacts:
        said = by_id.get(member["ID"], {})
        return MemberFacts(
            id=f"{int(member['ID']):x}",
            name=member.get("name", ""),
            healthy=any(url in well for url in member.get("clientURLs", ())),
            learner=member.get("isLearner", False),
            peers=tuple(member.get("peerURLs", ())),
            clients=tuple(member.get("clientURLs", ())),
            answers=bool(said.get("leader")),
            leads=said.get("leader") == member["ID"],
            behind=max(0, newest - said.get("raftAppliedIndex", newest)),
        )

    return EtcdFacts(
        tuple(one(member) for member in members.get("members", ())),
        {_text(pair["key"]): _text(pair.get("value", "")) for pair in kept.get("kvs", ())},
    )


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")


def observe_cluster(host: Host, *, seconds: int = ASK_SECONDS) -> ClusterFacts | None:
    """Query the API on a control plane; None if it does not answer.

    Raises HostError if the host cannot be reached, or takes longer than these seconds.
    """
    what = "nodes,deployments.apps,daemonsets.apps"
    argv = [*KUBECTL_ADMIN, "get", what, "--all-namespaces", "-o", "json"]
    if seconds < ASK_SECONDS:
        argv.append(f"--request-timeout={seconds}s")
    result = host.run(argv, check=False, timeout=seconds + 2 if seconds < ASK_SECONDS else seconds)
    answer = _json(result.stdout) if result.returncode == 0 else None
    return None if answer is None else parse_cluster(answer)


def parse_cluster(answer: Mapping[str, Any]) -> ClusterFacts:
    """Parse `kubectl get nodes,deployments,daemonsets -A -o json` (a v1 List)."""
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
    # A controller that has not seen the newest generation reports the state before it.
    current = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0) if current else 1
        # This counts nodes that are off too. WaitNodes checks the nodes that must be Ready.
        wanted = min(wanted, max(ready, 1))
        available = status.get("numberAvailable", 0) if current else 0
    else:
        wanted = spec.get("replicas", 1)
        available = status.get("availableReplicas", 0) if current else 0
    return WorkloadFacts(
        item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], wanted, available
    )


def _json(text: str) -> Any:  # noqa: ANN401 any JSON value
    stripped = text.strip()
    return json.loads(stripped) if stripped.startswith(("{", "[")) else None
