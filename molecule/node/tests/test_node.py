"""The role node on a worker: a node of the cluster, with its own certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host

KUBECTL = "kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout=60s"


def test_node_is_ready(host: Host) -> None:
    """The images of its pod network come from the Primer's registry."""
    name = host.check_output("hostname")
    host.check_output(f"{KUBECTL} wait --for=condition=Ready node/{name} --timeout=300s")
    assert host.service("kubelet").is_enabled


def test_certificate_of_kubelet_has_the_name_of_the_node(host: Host) -> None:
    certificate = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    subject = host.check_output(f"openssl x509 -in {certificate} -noout -subject -nameopt RFC2253")
    assert f"CN=system:node:{host.check_output('hostname')}" in subject


def test_node_cannot_read_secrets_of_others(host: Host) -> None:
    assert host.run(f"{KUBECTL} get secrets --all-namespaces").rc != 0


def test_join_leaves_no_secret_behind(host: Host) -> None:
    assert not host.file("/etc/kubernetes/bootstrap-kubelet.conf").exists
    assert not host.file("/run/keystone-kubeadm-join.yaml").exists


def test_route_for_services_ends_on_the_machine(host: Host) -> None:
    assert "keystone-svc" in host.check_output("ip route get 10.96.0.1")
