"""What the role node leaves on a worker: a node of the cluster, by its own certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host

KUBECTL = "kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout=60s"


def test_the_node_is_ready(host: Host) -> None:
    """Its pod network comes from the Primer's registry, as all its images do."""
    name = host.check_output("hostname")
    host.check_output(f"{KUBECTL} wait --for=condition=Ready node/{name} --timeout=300s")
    assert host.service("kubelet").is_enabled


def test_its_certificate_is_its_own(host: Host) -> None:
    certificate = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    subject = host.check_output(f"openssl x509 -in {certificate} -noout -subject -nameopt RFC2253")
    assert f"CN=system:node:{host.check_output('hostname')}" in subject


def test_it_may_not_read_what_is_not_its_own(host: Host) -> None:
    assert host.run(f"{KUBECTL} get secrets --all-namespaces").rc != 0


def test_no_secret_of_the_join_is_left(host: Host) -> None:
    assert not host.file("/etc/kubernetes/bootstrap-kubelet.conf").exists
    assert not host.file("/run/keystone-kubeadm-join.yaml").exists


def test_packets_for_services_never_leave_the_machine(host: Host) -> None:
    assert "keystone-svc" in host.check_output("ip route get 10.96.0.1")
