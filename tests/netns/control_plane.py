"""A real control plane in a network namespace: etcd, and the API server as kubeadm starts it.

The machine has its own /etc and /var/log, so that all paths are as on a host.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

import yaml

from keystone.ansible.roles import addons, control_plane
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster import kubeadm
from keystone.cluster.context import Context
from keystone.pki import tree as pki
from keystone.pki.host_files import data, deployment_file
from keystone.run import Host, Result, run, spawned

from .conftest import Lan, Placed, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PROGRAMS = ("etcd", "etcdctl", "kubeadm", "kube-apiserver", "kubectl")
OWN = 'mount --bind "$1/etc" /etc; mount --bind "$1/log" /var/log; mount --bind "$1/bin" '
OWN += '/usr/local/bin; shift; exec "$@"'


@dataclass(frozen=True)
class Machine(Host):
    """A host of the site: a namespace with its own folders."""

    words: tuple[str, ...] = ()

    def run(
        self,
        argv: Sequence[str],
        *,
        data: str | None = None,
        stdin: IO[bytes] | None = None,
        check: bool = True,
        timeout: float = 120,
        secrets: Sequence[str] = (),
    ) -> Result:
        """Run a command as keystone.run.Host.run does."""
        return run([*self.words, *argv], data=data, stdin=stdin, check=check, timeout=timeout,
                   secrets=secrets)  # fmt: skip


@dataclass(frozen=True)
class ControlPlane:
    """The running control plane. folder: with the machine's etc, log and bin."""

    context: Context
    machine: Machine
    folder: Path

    def kubectl(self, *words: str, data: str = "", check: bool = True) -> Result:
        """Run kubectl as administrator, directly at the API server."""
        argv = ["kubectl", "--server=https://127.0.0.1:6443", *words]
        config = "--kubeconfig=/etc/kubernetes/admin.conf"
        return self.machine.run([*argv, config], data=data or None, check=check)

    def stored(self, key: str) -> str:
        """Return the value in etcd of a key."""
        pki = "/etc/etcd/pki"
        return self.machine.run([
            "etcdctl", "--endpoints=https://127.0.0.1:2379", f"--cacert={pki}/peer-ca.crt",
            f"--cert={pki}/client.crt", f"--key={pki}/client.key",
            "get", key, "--print-value-only",
        ]).stdout  # fmt: skip


def bundle() -> Manifest:
    """Return a manifest with the names and versions that the documents need."""
    names = {"registry.k8s.io/coredns/coredns": "v1.14.6", "registry.k8s.io/pause": "3.10.2"}
    names |= dict.fromkeys(set(addons.IMAGES.values()) - names.keys(), "v1")
    items = [Item("image", name, tag, Digest("a" * 64), 1) for name, tag in names.items()]
    items += [Item("binary", name, "v1.37.2", Digest("b" * 64), 1)
              for name in ("kubelet", "kubeadm", "kubectl")]  # fmt: skip
    return Manifest("platform", 1, tuple(items))


@contextmanager
def running(
    lan: Lan, placed: Placed, binary: Callable[[str], Path], folder: Path
) -> Iterator[ControlPlane]:
    """Run a control plane on p1, with the files of the roles `trust` and `control_plane`."""
    site = replace(placed.site, primers=placed.site.primers[:1])
    context = Context(site, site.primers[0], bundle())
    machine = _machine(lan, folder, {name: binary(name) for name in PROGRAMS})
    place(placed.tree, folder)
    for file in control_plane.variables(context)["control_plane_files"]:  # type: ignore[attr-defined]
        path = folder / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"])
    (folder / f"{kubeadm.CONFIG}/patches".lstrip("/")).mkdir()
    for phase in ("certs all", "kubeconfig super-admin", "control-plane apiserver"):
        config = f"{kubeadm.CONFIG}/kubeadm.yaml"
        machine.run(["kubeadm", "init", "phase", *phase.split(), "--config", config])
    # Only `kubeadm init` would give the other administrator its rights.
    (folder / "etc/kubernetes/super-admin.conf").rename(folder / "etc/kubernetes/admin.conf")
    made = ControlPlane(context, machine, folder)
    with ExitStack() as stack:
        for name, argv in (("etcd", _etcd()), ("kube-apiserver", _api_server(folder))):
            log = folder / f"{name}.log"
            stack.enter_context(spawned([*machine.words, *argv], log_file=log))
        ready = ("get", "--raw", "/readyz")
        until(lambda: made.kubectl(*ready, check=False).returncode == 0, "the API is ready", 180)
        yield made


def place(tree: Path, folder: Path) -> None:
    """Place p1's files of the trust tree, as the role trust does."""
    for file in json.loads(deployment_file(tree, "p1").read_text())["files"]:
        path = folder / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.new")
        part.write_bytes(data(file))
        part.chmod(int(file["mode"], 8))
        part.rename(path)


def _machine(lan: Lan, folder: Path, programs: Mapping[str, Path]) -> Machine:
    shutil.copytree("/etc", folder / "etc", symlinks=True)
    (folder / "log/kubernetes/audit").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, path in programs.items():
        (folder / "bin" / name).symlink_to(path)
    words = lan.at("p1", "unshare", "--mount", "sh", "-ec", OWN, "sh", folder)
    return Machine("p1", "10.78.0.11", local=True, words=tuple(words))


def _etcd() -> list[str]:
    url, pki_ = "https://10.78.0.11:2379,https://127.0.0.1:2379", "/etc/etcd/pki"
    return [
        "etcd", "--data-dir=/var/log/etcd", f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}", f"--trusted-ca-file={pki_}/client-ca.crt",
        f"--cert-file={pki_}/server.crt", f"--key-file={pki_}/server.key", "--client-cert-auth",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]  # fmt: skip


def _api_server(folder: Path) -> list[str]:
    """Return the command in the manifest that kubeadm wrote."""
    manifest = folder / "etc/kubernetes/manifests/kube-apiserver.yaml"
    command: list[str] = yaml.safe_load(manifest.read_text())["spec"]["containers"][0]["command"]
    return command


def make_tree_without_encryption(placed: Placed) -> None:
    """Make the tree as an older Keystone left it, then update it as a run of this one does."""
    (placed.tree / "encryption.yaml").unlink()
    pki.issue(placed.site, placed.tree)
