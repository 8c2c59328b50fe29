"""What one host gets of the trust tree: which files, where, all of it as one file for a role."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.pki import encryption

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.site.model import Node


@dataclass(frozen=True)
class PlacedFile:
    """A file of the tree and where it goes on a host. source: path below the tree's directory."""

    path: str
    source: str
    mode: str = "0644"
    group: str = "root"


DIRECTORIES: tuple[tuple[str, str, str], ...] = (
    ("/etc/keystone", "0755", "root"),
    ("/etc/keystone/pki", "0755", "root"),
    ("/etc/etcd", "0755", "root"),
    ("/etc/etcd/pki", "0750", "etcd"),
)
CONTROL_PLANE_DIRECTORIES: tuple[tuple[str, str, str], ...] = (
    ("/etc/kubernetes", "0755", "root"),
    ("/etc/kubernetes/pki", "0755", "root"),
    ("/etc/kubernetes/pki/etcd", "0755", "root"),
)
"""Path, mode and group of the folders that `placed` puts files into."""


def placed(node: Node) -> tuple[PlacedFile, ...]:
    """Which files of the tree a host gets, and where: etcd's, the site's, kubeadm's names."""
    leaves = f"leaves/{node.name}"
    keystone, etcd = "/etc/keystone/pki", "/etc/etcd/pki"
    found = [
        PlacedFile(f"{keystone}/root.crt", "root.crt"),
        PlacedFile(f"{keystone}/site-ca.crt", "site-anchor.crt"),
        PlacedFile(f"{keystone}/site.crt", f"{leaves}/site.crt"),
        PlacedFile(f"{keystone}/site.key", f"{leaves}/site.key", "0600"),
        PlacedFile(f"{keystone}/kubernetes-ca.crt", "kubernetes-anchor.crt"),
        PlacedFile(f"{etcd}/peer-ca.crt", "etcd-peer-anchor.crt"),
        PlacedFile(f"{etcd}/client-ca.crt", "etcd-client-anchor.crt"),
    ]
    for name in ("peer", "server", "client"):
        source = f"{leaves}/etcd-{name}"
        found.append(PlacedFile(f"{etcd}/{name}.crt", f"{source}.crt"))
        found.append(PlacedFile(f"{etcd}/{name}.key", f"{source}.key", "0640", "etcd"))
    return (*found, *(_placed_for_kubeadm(leaves) if node.control_plane else ()))


def _placed_for_kubeadm(leaves: str) -> tuple[PlacedFile, ...]:
    # The names are kubeadm's: kubernetes.io, "PKI certificates and requirements".
    to, client = "/etc/kubernetes/pki", "apiserver-etcd-client"
    return (
        PlacedFile("/etc/keystone/pki/join.crt", f"{leaves}/join.crt"),
        PlacedFile("/etc/keystone/pki/join.key", f"{leaves}/join.key", "0600"),
        PlacedFile(f"{to}/ca.crt", "kubernetes-anchor.crt"),
        PlacedFile(f"{to}/ca.key", "kubernetes.key", "0600"),
        PlacedFile(f"{to}/front-proxy-ca.crt", "front-proxy-anchor.crt"),
        PlacedFile(f"{to}/front-proxy-ca.key", "front-proxy.key", "0600"),
        PlacedFile(f"{to}/sa.key", "sa.key", "0600"),
        PlacedFile(f"{to}/sa.pub", "sa.pub"),
        PlacedFile(encryption.PLACE, encryption.FILE, "0600"),
        PlacedFile(f"{to}/{client}.crt", f"{leaves}/{client}.crt"),
        PlacedFile(f"{to}/{client}.key", f"{leaves}/{client}.key", "0600"),
        PlacedFile(f"{to}/etcd/ca.crt", "etcd-peer-anchor.crt"),
    )


def deployment_file(directory: Path, host: str) -> Path:
    """Everything a host gets, as JSON arguments of the module keystone_host; holds its keys."""
    return directory / "deploy" / f"{host}.json"


def deployment_digest(directory: Path, host: str) -> str:
    """SHA-256 of the deployment file, hex; changes with every renewal. Empty before the first."""
    file = deployment_file(directory, host)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def is_deployed(directory: Path, node: Node) -> bool:
    """Whether the file holds just that."""
    file = deployment_file(directory, node.name)
    return file.exists() and file.read_bytes() == deployment(directory, node)


def deployment(directory: Path, node: Node) -> bytes:
    """What the file shall hold, from the certificates and keys as they are now."""
    folders = DIRECTORIES + (CONTROL_PLANE_DIRECTORIES if node.control_plane else ())
    content = {
        "directories": [
            {"path": path, "mode": mode, "owner": "root", "group": group}
            for path, mode, group in folders
        ],
        "files": [
            {
                "path": file.path,
                "mode": file.mode,
                "owner": "root",
                "group": file.group,
                "content": (directory / file.source).read_text(),
            }
            for file in placed(node)
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
