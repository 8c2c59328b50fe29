"""Workloads whose pods read the CA of the API when they start: found, restarted, awaited.

Each Deployment, DaemonSet and StatefulSet gets an annotation with the digest of the CAs in its pod
template, so the cluster replaces its pods, and a repeated run finds those that are done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.cluster.facts import KUBECTL_ADMIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.run import Host

ANNOTATION = "keystone/trust"
KINDS = "deployments.apps,daemonsets.apps,statefulsets.apps"
PUBLISHED = "kube-root-ca.crt"
"""The ConfigMap in each namespace that the controller manager writes and pods mount."""


@dataclass(frozen=True)
class Load:
    """One workload. rolled: all its pods are of its newest template and ready."""

    kind: str
    namespace: str
    name: str
    digest: str
    rolled: bool

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.namespace}/{self.name}"


def digest(authority: str) -> str:
    """Return 16 hex digits that identify the CAs."""
    return hashlib.sha256(authority.encode()).hexdigest()[:16]


def unpublished(host: Host, authority: str) -> str:
    """Say in which namespaces pods do not get these CAs (PEM) yet; "" if in none."""
    listed = _get(host, f"configmaps --field-selector=metadata.name={PUBLISHED}")
    late = [
        item["metadata"]["namespace"]
        for item in listed
        if item.get("data", {}).get("ca.crt", "").strip() != authority.strip()
    ]
    return f"{PUBLISHED} does not have the new CA yet in {', '.join(late)}" if late else ""


def behind(host: Host, wanted: str) -> tuple[Load, ...]:
    """Return the workloads whose template does not have this digest."""
    return tuple(load for load in loads(host) if load.digest != wanted)


def unrolled(host: Host, wanted: str) -> tuple[str, ...]:
    """Return the names of workloads with pods that are older than this digest, or not ready."""
    return tuple(str(load) for load in loads(host) if load.digest != wanted or not load.rolled)


def roll(host: Host, load: Load, wanted: str) -> None:
    """Write the digest into a workload's template: the cluster replaces its pods."""
    annotated = {"metadata": {"annotations": {ANNOTATION: wanted}}}
    patch = json.dumps({"spec": {"template": annotated}})
    host.run([
        *KUBECTL_ADMIN, "-n", load.namespace, "patch", load.kind.lower(), load.name,
        "--type=strategic", "-p", patch,
    ])  # fmt: skip


def alone(host: Host) -> tuple[str, ...]:
    """Return the running pods that no controller replaces, but for static pods of nodes."""
    return tuple(
        f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        for item in _get(host, "pods --field-selector=status.phase=Running")
        if not item["metadata"].get("ownerReferences")
    )


def loads(host: Host) -> tuple[Load, ...]:
    """Return all workloads of the cluster."""
    return tuple(parse(item) for item in _get(host, KINDS))


def parse(item: Mapping[str, Any]) -> Load:
    """Parse one item of `kubectl get -o json`."""
    meta, spec, status = item["metadata"], item["spec"], item.get("status", {})
    template = spec["template"].get("metadata", {}).get("annotations") or {}
    seen = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        fresh = status.get("updatedNumberScheduled", 0)
        ready = status.get("numberAvailable", 0)
    else:
        wanted = spec.get("replicas", 1)
        fresh = status.get("updatedReplicas", 0)
        ready = status.get("readyReplicas", 0)
    return Load(
        item["kind"], meta["namespace"], meta["name"], template.get(ANNOTATION, ""),
        rolled=seen and fresh >= wanted and ready >= wanted,
    )  # fmt: skip


def _get(host: Host, words: str) -> list[Any]:
    argv = [*KUBECTL_ADMIN, "get", *words.split(), "--all-namespaces", "-o", "json"]
    return list(json.loads(host.run(argv, timeout=120).stdout)["items"])
