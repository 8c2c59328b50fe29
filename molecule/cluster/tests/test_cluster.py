"""The cluster that the main job installs, observed on the first Primer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

testinfra_hosts = ["ansible://p1"]
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"


def items(host: Host, what: str) -> list[dict[str, Any]]:
    answer = json.loads(host.check_output(f"{KUBECTL} get {what} --all-namespaces -o json"))
    found: list[dict[str, Any]] = answer["items"]
    return found


def test_every_node_is_ready(host: Host) -> None:
    nodes = items(host, "nodes")
    ready = {
        node["metadata"]["name"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
    assert {"p1", "w1"} <= ready
    assert len(ready) == len(nodes)


def test_etcd_has_three_healthy_members(host: Host) -> None:
    command = "set -a; . /etc/etcd/etcdctl.env; etcdctl endpoint health --cluster -w json"
    assert [e["health"] for e in json.loads(host.check_output(command))] == [True] * 3


def test_every_workload_is_available(host: Host) -> None:
    for deployment in items(host, "deployments"):
        wanted = deployment["spec"]["replicas"]
        assert deployment["status"].get("availableReplicas", 0) == wanted, deployment["metadata"]
    for daemon in items(host, "daemonsets"):
        status = daemon["status"]
        assert status["numberAvailable"] == status["desiredNumberScheduled"], daemon["metadata"]


def test_exactly_one_storage_class_is_the_default(host: Host) -> None:
    key = "storageclass.kubernetes.io/is-default-class"
    classes = items(host, "storageclasses")
    assert [c["metadata"].get("annotations", {}).get(key) for c in classes].count("true") == 1


def test_images_can_come_only_from_a_primer(host: Host) -> None:
    """containerd has mirrors for every upstream, and DNS resolves no upstream."""
    assert host.run("getent hosts registry.k8s.io").rc != 0
    assert host.check_output("ls /etc/containerd/certs.d") != ""
