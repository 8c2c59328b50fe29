"""A real API server with controller manager and one etcd member, in the namespace of a machine."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.run import Result, run, spawned

from .conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Lan, Placed

SERVER = "https://10.78.0.11:6443"


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its network, programs by name, and the administrator's kubeconfig."""

    lan: Lan
    binary: Callable[[str], Path]
    pki: Path
    admin: Path

    def kubectl(self, *words: str | Path, config: Path | None = None, data: str = "") -> Result:
        """Run kubectl on p1; do not check its exit code."""
        argv = self.lan.at(
            "p1", self.binary("kubectl"), "--kubeconfig", config or self.admin, *words
        )
        return run(argv, data=data, check=False, timeout=120)

    def get(self, *words: str, config: Path | None = None) -> dict[str, Any]:
        """Return the object, or None."""
        result = self.kubectl("get", *words, "-o", "json", "--ignore-not-found", config=config)
        return json.loads(result.stdout or "{}")

    def kubeadm(self, *words: str | Path) -> Result:
        """Run a phase of kubeadm on p1."""
        argv = self.lan.at("p1", self.binary("kubeadm"), *words)
        return run(argv, timeout=120)


@contextmanager
def cluster(
    lan: Lan, placed: Placed, binary: Callable[[str], Path], folder: Path
) -> Iterator[Cluster]:
    """Run a cluster on p1 within the block, with the CAs of the site's trust tree."""
    pki, quorum = placed.at("p1", "/etc/kubernetes/pki"), "http://127.0.0.1:2379"
    made = Cluster(lan, binary, pki, folder / "super-admin.conf")
    own = ("--apiserver-advertise-address=10.78.0.11", f"--cert-dir={pki}")
    made.kubeadm("init", "phase", "certs", "apiserver", *own)
    made.kubeadm("init", "phase", "kubeconfig", "super-admin", *own, f"--kubeconfig-dir={folder}")
    etcd = [
        binary("etcd"), "--data-dir", folder / "etcd", "--listen-client-urls", quorum,
        "--advertise-client-urls", quorum, "--listen-peer-urls", "http://127.0.0.1:2380",
    ]  # fmt: skip
    server = [
        binary("kube-apiserver"), f"--etcd-servers={quorum}", "--advertise-address=10.78.0.11",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key", "--enable-bootstrap-token-auth",
        f"--service-account-key-file={pki}/sa.pub", "--service-account-issuer=https://test",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-cluster-ip-range=10.96.0.0/24",
    ]  # fmt: skip
    manager = [
        binary("kube-controller-manager"), f"--kubeconfig={made.admin}", "--leader-elect=false",
        f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
        f"--root-ca-file={pki}/ca.crt", "--use-service-account-credentials",
        f"--service-account-private-key-file={pki}/sa.key",
    ]  # fmt: skip
    with (
        spawned(lan.at("p1", *etcd), log_file=folder / "etcd.log"),
        spawned(lan.at("p1", *server), log_file=folder / "apiserver.log"),
        spawned(lan.at("p1", *manager), log_file=folder / "manager.log"),
    ):
        until(lambda: made.kubectl("get", "--raw", "/readyz").returncode == 0, "the API", 300)
        until(lambda: bool(made.get("ns", "kube-public")), "its namespaces", 120)
        yield made
