"""The role control_plane: an API server that uses the site's CAs and etcd."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=60s"
PKI = "/etc/kubernetes/pki"


def test_api_server_is_ready_at_the_local_endpoint(host: Host) -> None:
    assert host.check_output(f"{KUBECTL} get --raw /readyz") == "ok"
    server = host.check_output(
        f"{KUBECTL} config view -o jsonpath='{{.clusters[0].cluster.server}}'"
    )
    assert server.startswith("https://127.0.0.1:")


def test_controllers_work(host: Host) -> None:
    """One of them creates the default service account of a new namespace."""
    host.check_output(
        f"{KUBECTL} create namespace molecule --dry-run=client -o yaml | {KUBECTL} apply -f -"
    )
    wait = "wait --namespace molecule --for=create serviceaccount/default --timeout=120s"
    host.check_output(f"{KUBECTL} {wait}")


def test_machine_is_a_node(host: Host) -> None:
    nodes = json.loads(host.check_output(f"{KUBECTL} get nodes -o json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == [host.check_output("hostname")]


def test_certificate_authorities_are_those_of_the_site(host: Host) -> None:
    """kubeadm has not replaced them by its own."""
    placed = json.loads(host.file("/var/lib/keystone/state/trust.json").content_string)["files"]
    ours = {path: sha256 for path, sha256 in placed.items() if path.startswith(PKI)}
    assert {f"{PKI}/ca.crt", f"{PKI}/front-proxy-ca.crt"} <= set(ours)
    assert {path: host.file(path).sha256sum for path in ours} == ours
    assert host.run(f"openssl verify -CAfile {PKI}/ca.crt {PKI}/apiserver.crt").rc == 0


def test_data_is_in_the_etcd_of_the_site(host: Host) -> None:
    etcdctl = "set -a; . /etc/etcd/etcdctl.env; /usr/local/bin/etcdctl"
    keys = host.check_output(f"{etcdctl} get /registry/minions/ --prefix --keys-only")
    assert keys.split() == [f"/registry/minions/{host.check_output('hostname')}"]


def test_request_without_certificate_is_refused(http_status: Callable[..., str]) -> None:
    url, ca_file = "https://127.0.0.1:6443/api/v1/secrets", f"{PKI}/ca.crt"
    assert http_status(url, ca_file=ca_file) in ("401", "403")
