"""The role addons: pods have a network, DNS and storage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=60s"
SECONDS = 300
ASK = """
import socket, sys
labels = b"".join(bytes([len(l)]) + l for l in sys.argv[2].encode().split(b"."))
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(30)
asked.connect((sys.argv[1], 53))
asked.send(b"KS" + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + labels + bytes([0, 0, 1, 0, 1]))
print(socket.inet_ntoa(asked.recv(512)[-4:]))
"""
"""Queries a name server (RFC 1035) and prints the last four bytes of the answer: the address."""


def test_node_is_ready_and_all_workloads_are_available(host: Host) -> None:
    host.check_output(f"{KUBECTL} wait --for=condition=Ready node --all --timeout={SECONDS}s")
    listed = host.check_output(f"{KUBECTL} get deployments,daemonsets -A -o json")
    found = {
        f"{item['kind']}/{item['metadata']['name']}".lower(): item["metadata"]["namespace"]
        for item in json.loads(listed)["items"]
    }
    assert {name.split("/")[1] for name in found} >= {"coredns", "kube-flannel-ds", "kube-proxy"}
    for name, namespace in found.items():
        status = f"rollout status --namespace {namespace} {name} --timeout={SECONDS}s"
        host.check_output(f"{KUBECTL} {status}")


def test_cluster_dns_resolves_the_name_of_a_service(
    host: Host, role_variables: dict[str, Any]
) -> None:
    name = f"kubernetes.default.svc.{role_variables['addons_cluster_domain']}"
    service = f"{KUBECTL} get service kubernetes -o jsonpath='{{.spec.clusterIP}}'"
    answer = host.check_output(
        "python3 -c %s %s %s", ASK, role_variables["addons_dns_address"], name
    )
    assert answer == host.check_output(service)


def test_exactly_one_storage_class_is_the_default(host: Host) -> None:
    key = "storageclass.kubernetes.io/is-default-class"
    classes = json.loads(host.check_output(f"{KUBECTL} get storageclasses -o json"))["items"]
    assert [c["metadata"].get("annotations", {}).get(key) for c in classes].count("true") == 1
