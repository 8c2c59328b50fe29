"""Facts about a host: frozen types that `observe.parse` makes from the output of the probe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


CONTAINERS = frozenset({
    "container-other", "docker", "lxc", "lxc-libvirt", "openvz", "podman", "pouch", "proot", "rkt",
    "systemd-nspawn", "wsl",
})  # fmt: skip
"""Names of systemd-detect-virt(1) for containers; virtual machines have other names."""


TABLES = frozenset({"PMBR", "dos", "gpt"})
"""Names of wipefs(8) for partition tables; others ("mac", "sun") are reported as signatures."""
PORTABLE = frozenset({"ieee1394", "memstick", "mmc", "sbp", "usb"})
"""Transports (lsblk(8), TRAN) of devices that people plug in and take away."""
BUILT_IN = frozenset({"ata", "fc", "fcoe", "iscsi", "nvme", "sas", "sata", "spi", "virtio"})
"""Transports of disks, also in hot-swap bays, which the kernel calls removable."""


@dataclass(frozen=True)
class PoolLabel:
    """The pool that a disk belongs to, from its label (zdb -l; blkid when zdb is not installed).

    guid and hostid are 0 when they are not known.
    """

    pool: str
    guid: int = 0
    hostid: int = 0


@dataclass(frozen=True)
class DiskFacts:
    """One disk (not a partition) and everything that was found on it or on its partitions.

    name: kernel name ("nvme0n1"). by_id: links in /dev/disk/by-id to the disk, best first
    (nvme-<model>_<serial>, then wwn, eui). serial: as the device reports it, blanks removed.
    size and sector sizes in bytes. partition_table: "gpt", "dos", ... or "". signatures: results
    of libblkid, on the disk ("nvme0n1: ext4") and on partitions ("nvme0n1p1: vfat").
    mounted: mount points, and "[SWAP]". holders: kernel devices on top of it (dm, md).
    zpool_label: set when the disk or its first partition has ZFS labels. unreadable: why it cannot
    be read ("Input/output error"), in which case its content is unknown; "" if it can be read.
    """

    name: str
    path: str
    by_id: tuple[str, ...]
    serial: str
    model: str
    size: int
    logical_sector: int
    physical_sector: int
    transport: str = ""
    removable: bool = False
    read_only: bool = False
    partition_table: str = ""
    partitions: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    mounted: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    zpool_label: PoolLabel | None = None
    unreadable: str = ""

    @property
    def may_carry_the_system(self) -> bool:
        """The disk is built in. eMMC (soldered on) counts here, but not for a pool."""
        return not self.portable or (self.transport == "mmc" and not self.removable)

    @property
    def portable(self) -> bool:
        """The disk is a stick or a card, not for a pool. A disk in a hot-swap bay is not."""
        carried = self.removable and self.transport not in BUILT_IN
        return carried or self.transport in PORTABLE

    @property
    def blank(self) -> bool:
        """The disk can be read, nothing is on it, and nothing uses it."""
        return not (
            self.unreadable
            or self.partition_table
            or self.partitions
            or self.signatures
            or self.mounted
            or self.holders
            or self.zpool_label
        )


def twins(disks: Iterable[DiskFacts]) -> frozenset[str]:
    """Return serial numbers that several disks have: such a number does not identify a disk.

    Causes: one disk on two paths, two namespaces of a disk, or disks without real serial numbers.
    """
    counted = Counter(disk.serial for disk in disks)
    return frozenset(serial for serial, count in counted.items() if count > 1)


@dataclass(frozen=True)
class VdevFacts:
    """One top-level vdev. kind: "mirror", "disk", "raidz1" ...; paths: its disks, as imported.

    state: ONLINE, DEGRADED ... (zpoolconcepts(7)). shared: groups of paths that count as one
    member, while a disk replaces another one (zpool-replace(8)) or a spare is in use.
    """

    kind: str
    state: str
    paths: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...] = ()

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """The paths of each member of the vdev, nearly always one path each."""
        grouped = {path for place in self.shared for path in place}
        return (*self.shared, *((path,) for path in self.paths if path not in grouped))


@dataclass(frozen=True)
class PoolFacts:
    """An imported pool. health: ONLINE, DEGRADED ...; properties: of zpool get, as text."""

    name: str
    guid: int
    health: str
    ashift: int
    vdevs: tuple[VdevFacts, ...] = ()
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class DatasetFacts:
    """A file system of a pool. properties: those set or received on it, and defaults, as text.

    Numbers are exact bytes ("131072"), as zfs -p prints them.
    """

    name: str
    mountpoint: str
    mounted: bool
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class RoleFacts:
    """The marker that the last task of a role wrote (/var/lib/keystone/state/<role>.json).

    inputs: hash of the inputs that the role was applied with. drift: differences since then, one
    line each ("/etc/etcd/etcd.yaml: changed", "etcd.service: failed").
    """

    inputs: str
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreFacts:
    """The bundle in the host's store: its digest ("sha256:...") and whether it is complete."""

    bundle: str | None = None
    complete: bool = False


@dataclass(frozen=True)
class PoolIntent:
    """Keystone's record that it began to create a pool on these blank disks and did not finish."""

    pool: str
    serials: tuple[str, ...]


@dataclass(frozen=True)
class StandingFacts:
    """The parts of an installed site on a host, whether they run now or not.

    root: certificate of the site's root (PEM), "" for none. member: the host has data of an etcd
    member, so a quorum was formed once. kubernetes: version of its API server ("v1.37.2"); etcd:
    version of etcd's program ("3.7.3"); "" for none or unknown. keys: SHA-256 of each key with
    which its API server encrypts secrets; "" for a key that existed once and is lost. initial:
    members and state with which its etcd was started, from its configuration. timing: its
    heartbeat and election timeout in milliseconds, from there too. rotation: how often rotations
    changed the trust tree there.
    """

    root: str = ""
    member: bool = False
    kubernetes: str = ""
    etcd: str = ""
    keys: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()
    timing: tuple[int, ...] = ()
    rotation: int = 0


@dataclass(frozen=True)
class SealFacts:
    """The sealed keys of a Primer. thumbprint: of its own tang's signing key, "" for none.

    peers: names of the Primers that open for it; none if nothing is sealed. plain: sealed paths
    that have a plain file again; shut: those that nobody has opened since its start.
    """

    thumbprint: str = ""
    peers: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    shut: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """Facts about one host, observed in one round trip.

    memory, root_free, var_free: bytes; root_free is that of /var if / is read-only. clock_offset:
    seconds that the host's clock is ahead of ours; clock_error: its uncertainty in seconds (half
    the round trip). virtualization: output of systemd-detect-virt(1). folders: the datasets' mount
    points that exist as folders. kernel_parts: "there", "module", "missing" or "" (unknown), by
    module. settings: kernel settings by sysctl name. trial: the host was installed for a trial
    site. networks: addresses with masks ("10.77.0.11/24"), the machine's most likely one first.
    ports: ports that Keystone needs and a program listens on, with its name. kubernetes: paths of a
    cluster that exist (admin.conf, kubelet.conf, manifests, etcd data). clocks: active time
    services. silent_name_servers: addresses in /etc/resolv.conf that do not answer. host_key: its
    public ssh host key (Ed25519), as its file has it. certificates: those of its programs (PEM, the
    first is the file's own), by path. upkeep: files that its maintenance wrote, as text: "maintain"
    (its report) and "timing"; "" for one that does not exist.
    """

    name: str
    hostname: str
    machine_id: str
    root: bool
    os_id: str
    os_version: str
    os_name: str
    kernel: str
    architecture: str
    python: tuple[int, int]
    memory: int
    root_free: int
    cgroup: int
    virtualization: str
    clock_offset: float
    clock_error: float
    swaps: tuple[str, ...] = ()
    ports: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    clocks: tuple[str, ...] = ()
    zfs_module: str = ""
    disks: tuple[DiskFacts, ...] = ()
    pools: tuple[PoolFacts, ...] = ()
    datasets: tuple[DatasetFacts, ...] = ()
    roles: Mapping[str, RoleFacts] = field(default_factory=lambda: MappingProxyType({}))
    store: StoreFacts = field(default_factory=StoreFacts)
    kubernetes: tuple[str, ...] = ()
    intent: PoolIntent | None = None
    standing: StandingFacts = field(default_factory=StandingFacts)
    var_free: int = 0
    trial: bool = False
    folders: tuple[str, ...] = ()
    kernel_parts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    networks: tuple[str, ...] = ()
    silent_name_servers: tuple[str, ...] = ()
    host_key: str = ""
    certificates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    upkeep: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    seal: SealFacts = field(default_factory=SealFacts)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of `networks`, without masks."""
        return tuple(network.partition("/")[0] for network in self.networks)

    @property
    def container(self) -> bool:
        """The host is a container: it shares another machine's kernel."""
        return self.virtualization in CONTAINERS

    def disk(self, serial: str) -> tuple[DiskFacts, ...]:
        """Return all disks with a serial number: normally one."""
        return tuple(disk for disk in self.disks if disk.serial == serial)

    def pool(self, name: str) -> PoolFacts | None:
        """Return the imported pool of a name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)
