"""The nodes of a lab's cluster, from its Kubernetes API."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from keystone.errors import HostError
from keystone.lab.machines.machine import becomes
from keystone.lab.workload import KUBECTL

if TYPE_CHECKING:
    from keystone.run import Host


def ready(primer: Host, *, since: float = 0.0) -> frozenset[str]:
    """The nodes that are Ready and whose kubelet renewed its lease after `since` (Unix seconds).

    After all machines were off, the API shows outdated conditions for a while. Raises HostError if
    the API does not answer.
    """
    words = [*KUBECTL, "get", "nodes,leases", "--namespace=kube-node-lease", "-o", "json"]
    items = json.loads(primer.run(words).stdout)["items"]
    alive = {
        item["metadata"]["name"]
        for item in items
        if item["kind"] == "Lease" and _seconds(item["spec"]["renewTime"]) >= since
    }
    return frozenset(
        item["metadata"]["name"] for item in items if item["kind"] == "Node" and _is_ready(item)
    ) & (alive if since else {item["metadata"]["name"] for item in items})


def wait_ready(primer: Host, names: frozenset[str], *, since: float, seconds: float = 1800) -> None:
    """Wait until these nodes are Ready. Raises HostError with those that are not in time."""

    def missing() -> frozenset[str]:
        try:
            return names - ready(primer, since=since)
        except HostError:
            return names

    if not becomes(lambda: not missing(), seconds):
        raise HostError(
            f"timed out after {seconds:.0f} s: not Ready: {', '.join(sorted(missing()))}",
            hint="see: lab ssh p1 -- kubectl describe nodes",
        )


def _is_ready(node: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    conditions = {entry["type"]: entry["status"] for entry in node["status"]["conditions"]}
    return conditions.get("Ready") == "True"


def _seconds(text: str) -> float:
    """Unix seconds of a time in the format of the API (RFC 3339)."""
    return datetime.fromisoformat(text).timestamp()
