"""The files of the trust tree for one host, collected in one deployment file for the role trust.

Every Primer gets its own leaves and the tree itself, without the root's key: any Primer can renew
its leaves, run the installation, and be lost (docs/adr/0076-trust-on-every-primer.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.pki import encryption, revocation, rotation, seal
from keystone.pki.authorities import ISSUING
from keystone.pki.plan import leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.site.model import Node, Site


@dataclass(frozen=True)
class PlacedFile:
    """A file of the tree for a host. path: on the host. source: relative to the tree's folder.

    Sources below TRUSTED and LISTS and the source ANCHORS are made from files of the tree, see
    `content`.
    """

    path: str
    source: str
    mode: str = "0644"
    group: str = "root"


TRUSTED, LISTS, ANCHORS = "trusted/", "revoked/", "anchors.json"
ANCHORS_FILE = "/etc/keystone/anchors.json"
"""What nodes trust, served to workers: they fetch it again (keystone.join.follow)."""
SIGNER = "/etc/kubernetes/pki/signer.crt"
"""The one certificate of the CA that signs. The controller manager refuses two in its file."""
TREE = "/var/lib/keystone/pki"
"""The tree's folder on every Primer."""
DEPLOY = Path("/run/keystone/deploy")
"""The deployment files of an installed Primer's tree, in memory: they have the keys of the CAs."""
DIRECTORIES: tuple[tuple[str, str, str], ...] = (
    ("/var/lib/keystone", "0755", "root"),
    (TREE, "0700", "root"),
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
    """Return the files of the tree for a host: for etcd, for the site, and for kubeadm."""
    leaves = f"leaves/{node.name}"
    keystone, etcd = "/etc/keystone/pki", "/etc/etcd/pki"
    found = [
        PlacedFile(f"{keystone}/root.crt", "root.crt"),
        PlacedFile(f"{keystone}/site-ca.crt", f"{TRUSTED}site"),
        PlacedFile(f"{keystone}/site.crt", f"{leaves}/site.crt"),
        PlacedFile(f"{keystone}/site.key", f"{leaves}/site.key", "0600"),
        PlacedFile(f"{keystone}/kubernetes-ca.crt", f"{TRUSTED}kubernetes"),
        PlacedFile(f"{etcd}/peer-ca.crt", f"{TRUSTED}etcd-peer"),
        PlacedFile(f"{etcd}/client-ca.crt", f"{TRUSTED}etcd-client"),
        PlacedFile(f"{etcd}/peer.crl", f"{LISTS}etcd-peer"),
        PlacedFile(f"{etcd}/client.crl", f"{LISTS}etcd-client"),
        PlacedFile(ANCHORS_FILE, ANCHORS),
    ]
    for name in ("peer", "server", "client"):
        source = f"{leaves}/etcd-{name}"
        found.append(PlacedFile(f"{etcd}/{name}.crt", f"{source}.crt"))
        found.append(PlacedFile(f"{etcd}/{name}.key", f"{source}.key", "0640", "etcd"))
    return (*found, *_tree(), *(_placed_for_kubeadm(leaves) if node.control_plane else ()))


def _tree() -> tuple[PlacedFile, ...]:
    """Return the authorities; not the leaves and the log, of which each Primer has its own."""
    # The state of rotations first: with it a host completes the files that did not arrive.
    return tuple(
        PlacedFile(f"{TREE}/{name}", name, "0644" if name.endswith((".crt", ".pub")) else "0600")
        for name in (rotation.FILE, *authority_files(), encryption.FILE)
    )


def authority_files() -> tuple[str, ...]:
    """Return the names of the tree's files that are made once in the life of a site."""
    issuing = (f"{name}{end}" for name in ISSUING for end in (".key", ".crt", "-anchor.crt"))
    return ("root.crt", *issuing, "sa.key", "sa.pub")


def secret_files() -> dict[str, str]:
    """Return all that is sealed on a Primer: keys of CAs, `sa.key`, key of secrets, rotations.

    Its path on the host, and the name of its source in the tree.
    """
    secret = {f"{name}.key" for name in (*ISSUING, "sa")} | {rotation.FILE, encryption.FILE}
    files = (*_tree(), *_placed_for_kubeadm(""))
    return {file.path: file.source for file in files if file.source in secret}


def seal_tree() -> str:
    """Seal all of `secret_files` on this Primer; return what was done, as `seal.seal`."""
    seal.wipe(Path(TREE) / "deploy")  # where older installers left their deployment files
    return seal.seal(secret_files())


def leaf_places(node: Node) -> dict[str, str]:
    """Return the path on the host of each of its leaf certificates, by the leaf's name."""
    folder = f"leaves/{node.name}/"
    return {
        file.source.removeprefix(folder).removesuffix(".crt"): file.path
        for file in placed(node)
        if file.source.startswith(folder) and file.source.endswith(".crt")
    }


def _placed_for_kubeadm(leaves: str) -> tuple[PlacedFile, ...]:
    # kubeadm requires these names: kubernetes.io, "PKI certificates and requirements".
    to, client = "/etc/kubernetes/pki", "apiserver-etcd-client"
    return (
        PlacedFile("/etc/keystone/pki/join.crt", f"{leaves}/join.crt"),
        PlacedFile("/etc/keystone/pki/join.key", f"{leaves}/join.key", "0600"),
        PlacedFile(f"{to}/ca.crt", f"{TRUSTED}kubernetes"),
        PlacedFile(SIGNER, "kubernetes-anchor.crt"),
        PlacedFile(f"{to}/ca.key", "kubernetes.key", "0600"),
        PlacedFile(f"{to}/front-proxy-ca.crt", f"{TRUSTED}front-proxy"),
        PlacedFile(f"{to}/front-proxy-ca.key", "front-proxy.key", "0600"),
        PlacedFile(f"{to}/sa.key", "sa.key", "0600"),
        PlacedFile(f"{to}/sa.pub", f"{TRUSTED}{rotation.SERVICE_ACCOUNTS}"),
        PlacedFile(encryption.PLACE, encryption.FILE, "0600"),
        PlacedFile(f"{to}/{client}.crt", f"{leaves}/{client}.crt"),
        PlacedFile(f"{to}/{client}.key", f"{leaves}/{client}.key", "0600"),
        PlacedFile(f"{to}/etcd/ca.crt", f"{TRUSTED}etcd-peer"),
    )


def content(directory: Path, source: str) -> str:
    """Return a source of `placed`, lists in base64. directory: the tree's folder, complete."""
    if source.startswith(LISTS):
        return base64.b64encode(revocation.list_of(directory, source.removeprefix(LISTS))).decode()
    if source.startswith(TRUSTED):
        return rotation.trusted(directory, source.removeprefix(TRUSTED))
    if source == rotation.FILE:
        return rotation.text(directory)
    if source == ANCHORS:
        return anchors(directory)
    return (directory / source).read_text()


def anchors(directory: Path) -> str:
    """Return what nodes trust, as JSON: PEM by CA, and since when their certificates must be.

    Nothing in it is secret.
    """
    found = {name: rotation.trusted(directory, name) for name in ("site", "kubernetes")}
    found["since"] = rotation.read(directory).leaves
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def deployment_file(directory: Path, host: str) -> Path:
    """Return the path of a host's deployment file: JSON arguments of the module keystone_host.

    The file contains the host's private keys.
    """
    folder = DEPLOY if directory == Path(TREE) else directory / "deploy"
    return folder / f"{host}.json"


def wanted(directory: Path, site: Site, node: Node) -> str:
    """Return the SHA-256 of what the host should have; needs a complete tree.

    Leaves count by their profile: a host that renewed its own has what it should have.
    """
    profiles = {f"leaves/{node.name}/{spec.name}": spec for spec in leaves(site, node)}

    def counted(file: PlacedFile) -> str:
        spec = profiles.get(file.source.rpartition(".")[0])
        if spec is not None:
            return f"{spec.issuer} {spec.profile}"
        return hashlib.sha256(content(directory, file.source).encode()).hexdigest()

    entries = [(file.path, file.mode, file.group, counted(file)) for file in placed(node)]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def deployment(directory: Path, node: Node) -> bytes:
    """Return the content of the deployment file with the current certificates and keys."""
    folders = DIRECTORIES + (CONTROL_PLANE_DIRECTORIES if node.control_plane else ())
    arguments = {
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
                _kind(file.source): content(directory, file.source),
            }
            for file in placed(node)
        ],
    }
    return json.dumps(arguments, indent=1, sort_keys=True).encode() + b"\n"


def _kind(source: str) -> str:
    return "base64" if source.startswith(LISTS) else "content"


def data(entry: Mapping[str, str]) -> bytes:
    """Return the bytes of a file's entry in a deployment file."""
    return base64.b64decode(entry["base64"]) if "base64" in entry else entry["content"].encode()
