"""The site file: what a person asks for. Frozen; loading returns a Site or all the mistakes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from keystone import documents
from keystone.errors import UsageError
from keystone.files import write_whole
from keystone.site import checks

if TYPE_CHECKING:
    from collections.abc import Mapping


INSTALLED = Path("/var/lib/keystone/site.yaml")
"""The site file that was applied last, on the Primer that the installer ran on; root reads it."""
PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")


@dataclass(frozen=True)
class Disk:
    """One disk that may be used, named by what does not change: its serial number."""

    serial: str


@dataclass(frozen=True)
class Machine:
    """What a machine that was started from a medium is known by: its serial number, or a MAC."""

    serial: str = ""
    macs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A Primer: a machine of the root of trust, the quorum and the store.

    control_plane: it runs an API server. kubelet: it is a node of the cluster too. machine and
    system_disk (a serial number): for the installer medium, None and "" where it is not used.
    host_key: its SSH host key as a public line, or that one's fingerprint ("SHA256:..."); "" where
    the site file does not say.
    """

    where: ClassVar[str] = "the site file: primers[]"
    name: str
    address: IPv4Address
    disks: tuple[Disk, ...] = ()
    control_plane: bool = True
    kubelet: bool = True
    machine: Machine | None = None
    system_disk: str = ""
    host_key: str = ""


@dataclass(frozen=True)
class Ssh:
    """How the first Primer reaches the others.

    authorized_keys: public keys that may log in to what the installer medium writes.
    """

    user: str = "root"
    port: int = 22
    key_file: str = ""
    authorized_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Networks:
    """Address ranges; they must not overlap. `nodes` holds every Primer and LAN worker."""

    nodes: IPv4Network
    pods: IPv4Network = PODS
    services: IPv4Network = SERVICES
    cluster_domain: str = "cluster.local"
    gateway: IPv4Address | None = None


@dataclass(frozen=True)
class Storage:
    """The pool on every Primer. layout: "mirror" (2 disks) or "single" (1, with a warning).

    Layout "directory" is for trial sites: folders in place of the pool's datasets, and no disks.
    """

    pool: str = "keystone"
    layout: str = "mirror"
    ashift: int = 12

    @property
    def on_pool(self) -> bool:
        """Whether there is a pool: its datasets are mount points, folders are none."""
        return self.layout != "directory"


@dataclass(frozen=True)
class Trust:
    """Where the offline root's encrypted key is put for the operator to carry away.

    passphrase_file: read once, never copied; without it the passphrase is asked for.
    """

    root_key_file: str = ""
    passphrase_file: str = ""


@dataclass(frozen=True)
class Patience:
    """How patient the cluster's parts are with slow machines: "normal" or "emulated".

    Emulated machines lose leases and fail probes under load: longer deadlines, no leader election
    where there is one replica.
    """

    profile: str = "normal"


@dataclass(frozen=True)
class Site:
    """One site, as its file says it. network_boot: machines may start from its Primers.

    trial: for trying and testing, never for production; its machines may be containers
    (keystone.site.host_profile).
    """

    name: str
    primers: tuple[Node, ...]
    networks: Networks
    ssh: Ssh = field(default_factory=Ssh)
    storage: Storage = field(default_factory=Storage)
    trust: Trust = field(default_factory=Trust)
    patience: Patience = field(default_factory=Patience)
    time_sources: tuple[str, ...] = ()
    system_floor: int = 0
    network_boot: bool = False
    trial: bool = False

    @property
    def control_planes(self) -> tuple[Node, ...]:
        """The Primers that run an API server, first one first."""
        return tuple(node for node in self.primers if node.control_plane)


def load(path: Path | str) -> Site:
    """From a file, or from standard input ("-").

    Raises ConfigurationError with all the mistakes in it, each with its line.
    """
    return from_document(read(path))


def read(path: Path | str) -> documents.Document:
    """The document that `load` makes a site of; raises what that raises."""
    return documents.load(path, kind="Site", schema=schema(), check=checks.check)


def installed() -> Path:
    """The file of the site that is installed here. Raises UsageError when there is none."""
    if not INSTALLED.exists():
        raise UsageError(
            f"no site file is given, and none was applied on this machine ({INSTALLED})",
            hint="run this on the Primer that keystone-install ran on, or add --site FILE",
        )
    return INSTALLED


def keep(document: documents.Document) -> None:
    """Make it the installed one: the same document, in JSON, whose relative paths are absolute."""
    spec = json.loads(json.dumps(document.spec))
    for section, key in (("ssh", "keyFile"), ("trust", "rootKeyFile"), ("trust", "passphraseFile")):
        if key in spec.get(section, {}):
            spec[section][key] = _resolved(document, spec[section][key])
    whole = {
        "apiVersion": documents.API_VERSION,
        "kind": document.kind,
        "metadata": {"name": document.name},
        "spec": spec,
    }
    INSTALLED.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(INSTALLED, json.dumps(whole, indent=1).encode() + b"\n", 0o600)


def schema() -> dict[str, Any]:
    """The published JSON Schema of the whole document."""
    return documents.packaged_schema("site")


def to_json(site: Site) -> dict[str, Any]:
    """As plain JSON values, in the order of the fields; equal sites give equal text."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(site), default=str))
    return plain


def digest(site: Site) -> str:
    """Hash of everything that the site asks for: "sha256:...", in hexadecimal."""
    text = json.dumps(to_json(site), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def from_document(document: documents.Document) -> Site:
    """From a document that is valid; relative paths become absolute."""
    spec = document.spec
    networks, storage, trust = spec["networks"], spec.get("storage", {}), spec.get("trust", {})
    ssh = spec.get("ssh", {})
    return Site(
        name=document.name,
        primers=tuple(_node(primer) for primer in spec["primers"]),
        networks=Networks(
            nodes=IPv4Network(networks["nodes"]),
            pods=IPv4Network(networks.get("pods", Networks.pods)),
            services=IPv4Network(networks.get("services", Networks.services)),
            cluster_domain=networks.get("clusterDomain", Networks.cluster_domain),
            gateway=IPv4Address(networks["gateway"]) if "gateway" in networks else None,
        ),
        ssh=Ssh(
            user=ssh.get("user", Ssh.user),
            port=ssh.get("port", Ssh.port),
            key_file=_resolved(document, ssh.get("keyFile", "")),
            authorized_keys=tuple(ssh.get("authorizedKeys", [])),
        ),
        storage=Storage(**storage),
        trust=Trust(
            root_key_file=_resolved(document, trust.get("rootKeyFile", "")),
            passphrase_file=_resolved(document, trust.get("passphraseFile", "")),
        ),
        patience=Patience(**spec.get("patience", {})),
        time_sources=tuple(spec.get("time", {}).get("sources", [])),
        system_floor=spec.get("systemFloor", Site.system_floor),
        network_boot=spec.get("networkBoot", Site.network_boot),
        trial=spec.get("trial", Site.trial),
    )


def _node(primer: Mapping[str, Any]) -> Node:
    return Node(
        name=primer["name"],
        address=IPv4Address(primer["address"]),
        disks=tuple(Disk(disk["serial"]) for disk in primer.get("disks", ())),
        control_plane=primer.get("controlPlane", Node.control_plane),
        kubelet=primer.get("kubelet", Node.kubelet),
        machine=machine(primer["machine"]) if "machine" in primer else None,
        system_disk=primer.get("systemDisk", Node.system_disk),
        host_key=primer.get("hostKey", Node.host_key),
    )


def machine(fields: Mapping[str, Any]) -> Machine:
    """What a document says of a machine."""
    return Machine(fields.get("serial", ""), tuple(fields.get("macs", [])))


def _resolved(document: documents.Document, path: str) -> str:
    """Relative paths mean relative to the file's folder, wherever the command is run."""
    if not path:
        return ""
    folder = document.path.parent if document.path else Path()
    return str((folder / path).absolute())
