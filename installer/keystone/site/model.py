"""The model of a site file: frozen types. Loading returns a Site, or raises with all mistakes."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from keystone import documents
from keystone.errors import UsageError
from keystone.files import write_whole
from keystone.site import backup, checks

if TYPE_CHECKING:
    from collections.abc import Mapping


INSTALLED = Path("/var/lib/keystone/site.yaml")
"""The site file that was applied last, on the Primer that ran the installer; only root reads it."""
PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")


@dataclass(frozen=True)
class Disk:
    """A disk that Keystone may use, identified by its serial number, which never changes."""

    serial: str


@dataclass(frozen=True)
class Machine:
    """How to identify a machine that was started from a medium: its serial number, or a MAC."""

    serial: str = ""
    macs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A Primer: a machine that holds the site's trust root, quorum and store.

    control_plane: it runs an API server. kubelet: it is also a node of the cluster. machine and
    system_disk (a serial number): for the installer medium; None and "" if that is not used.
    host_key: its SSH host key as a public line, or the fingerprint ("SHA256:..."); "" if the site
    file does not have it.
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
    """How the first Primer logs in to the others.

    authorized_keys: public keys that may log in to systems that the installer medium writes.
    """

    user: str = "root"
    port: int = 22
    key_file: str = ""
    authorized_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Networks:
    """Address ranges, which must not overlap. nodes: of all Primers and workers of the LAN."""

    nodes: IPv4Network
    pods: IPv4Network = PODS
    services: IPv4Network = SERVICES
    cluster_domain: str = "cluster.local"
    gateway: IPv4Address | None = None


@dataclass(frozen=True)
class Storage:
    """The pool on every Primer. layout: "mirror" (2 disks) or "single" (1, with a warning).

    Layout "directory" is for trial sites: folders instead of the pool's datasets, and no disks.
    """

    pool: str = "keystone"
    layout: str = "mirror"
    ashift: int = 12

    @property
    def on_pool(self) -> bool:
        """True for a pool, whose datasets are mount points; False for folders."""
        return self.layout != "directory"


@dataclass(frozen=True)
class Trust:
    """Where the offline root's encrypted key is written, for the operator to carry away.

    passphrase_file: read once, never copied; "" to ask for the passphrase. certificate_lifetime: of
    all leaf certificates; each is renewed after two thirds of it. seal: "peers" if the keys on a
    Primer's disk can be opened only with the help of another Primer, "none" if they are plain.
    """

    root_key_file: str = ""
    passphrase_file: str = ""
    certificate_lifetime: dt.timedelta = dt.timedelta(days=90)
    seal: str = "peers"


@dataclass(frozen=True)
class Patience:
    """The profile of leases, probes and timeouts: "normal" or "emulated".

    Emulated machines lose leases and fail probes under load, so "emulated" has longer deadlines,
    and no leader election for single replicas.
    """

    profile: str = "normal"


@dataclass(frozen=True)
class Site:
    """One site, as in its file. network_boot: machines may start from its Primers' network boot.

    backup: None for a site without sealed backups.
    system_floor: the lowest version of the system that an installer medium may write; 0 for any.
    trial: for tests, never for production; machines may be containers (keystone.site.host_profile).
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
    backup: backup.Backup | None = None

    @property
    def control_planes(self) -> tuple[Node, ...]:
        """The Primers that run an API server, in the order of the site file."""
        return tuple(node for node in self.primers if node.control_plane)


def load(path: Path | str) -> Site:
    """Load a site from a file, or from standard input ("-").

    Raises ConfigurationError with all mistakes, each with its line.
    """
    return from_document(read(path))


def read(path: Path | str) -> documents.Document:
    """Read the document of a site file. Raises ConfigurationError as `load` does."""
    return documents.load(path, kind="Site", schema=schema(), check=checks.check)


def installed() -> Path:
    """Return the file of the site that is installed here. Raises UsageError if there is none."""
    if not INSTALLED.exists():
        raise UsageError(
            f"no --site was given, and no site was installed from this machine ({INSTALLED})",
            hint="run this on the Primer where keystone-install ran, or add --site FILE",
        )
    return INSTALLED


def installed_text(document: documents.Document) -> str:
    """Return a document as the installed site file has it: as JSON, with absolute paths."""
    spec = json.loads(json.dumps(document.spec))
    for section, key in (("ssh", "keyFile"), ("trust", "rootKeyFile"), ("trust", "passphraseFile")):
        if key in spec.get(section, {}):
            spec[section][key] = _resolved(document, spec[section][key])
    backup.resolve(spec, lambda path: _resolved(document, path))
    absolute = {
        "apiVersion": documents.API_VERSION,
        "kind": document.kind,
        "metadata": {"name": document.name},
        "spec": spec,
    }
    return json.dumps(absolute, indent=1) + "\n"


def keep(document: documents.Document) -> None:
    """Keep a document as the installed site file of this machine."""
    INSTALLED.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(INSTALLED, installed_text(document).encode(), 0o600)


def schema() -> dict[str, Any]:
    """Return the published JSON Schema of the whole document."""
    return documents.packaged_schema("site")


def to_json(site: Site) -> dict[str, Any]:
    """Return a site as plain JSON values, in the order of the fields; equal sites, equal text."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(site), default=str))
    return plain


def digest(site: Site) -> str:
    """Return the SHA-256 of all settings of a site: "sha256:" and 64 hexadecimal digits."""
    text = json.dumps(to_json(site), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def from_document(document: documents.Document) -> Site:
    """Make a Site of a valid document; relative paths become absolute."""
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
            certificate_lifetime=checks.duration(trust.get("certificateLifetime", "90d")),
            seal=trust.get("seal", "peers"),
        ),
        patience=Patience(**spec.get("patience", {})),
        time_sources=tuple(spec.get("time", {}).get("sources", [])),
        system_floor=spec.get("systemFloor", Site.system_floor),
        network_boot=spec.get("networkBoot", Site.network_boot),
        trial=spec.get("trial", Site.trial),
        backup=backup.from_spec(spec["backup"], lambda path: _resolved(document, path))
        if "backup" in spec
        else None,
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
    """Make a Machine of its mapping in a document."""
    return Machine(fields.get("serial", ""), tuple(fields.get("macs", [])))


def _resolved(document: documents.Document, path: str) -> str:
    """Return an absolute path; relative paths are relative to the folder of the document."""
    if not path:
        return ""
    folder = document.path.parent if document.path else Path()
    return str((folder / path).absolute())
