"""What a host is: frozen types, made by `facts.parse` from what the probe says."""

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
"""What systemd-detect-virt(1) calls a container; a virtual machine has another name."""


TABLES = frozenset({"PMBR", "dos", "gpt"})
"""What wipefs(8) calls partition tables of its own; others ("mac", "sun") are left signatures."""
PORTABLE = frozenset({"ieee1394", "memstick", "mmc", "sbp", "usb"})
"""Ways (lsblk(8), TRAN) by which what comes is carried away again."""
BUILT_IN = frozenset({"ata", "fc", "fcoe", "iscsi", "nvme", "sas", "sata", "spi", "virtio"})
"""Ways of disks, hot-swapped ones too: the kernel calls a disk in such a bay removable."""


@dataclass(frozen=True)
class PoolLabel:
    """What a disk says about the pool that it belongs to (zdb -l; blkid when there is no zdb).

    guid and hostid are 0 when they are not known.
    """

    pool: str
    guid: int = 0
    hostid: int = 0


@dataclass(frozen=True)
class DiskFacts:
    """One whole disk and everything that was found on it or on its partitions.

    name: kernel name ("nvme0n1"). by_id: links in /dev/disk/by-id to the whole disk, best first
    (nvme-<model>_<serial>, then wwn, eui). serial: as the device says it, blanks removed.
    size and sector sizes in bytes. partition_table: "gpt", "dos", ... or "". signatures: what
    libblkid finds, on the disk ("nvme0n1: ext4") and on partitions ("nvme0n1p1: vfat").
    mounted: mount points, and "[SWAP]". holders: what sits on top of it in the kernel (dm, md).
    zpool_label: set when the disk or its first partition carries ZFS labels. unreadable: why it
    cannot be read ("Input/output error"): what is on it is not known then.
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
        """It is built in. Memory that is soldered on (eMMC) is, and is no disk for a pool."""
        return not self.portable or (self.transport == "mmc" and not self.removable)

    @property
    def portable(self) -> bool:
        """A stick, a card: nothing that a site is built on. A disk in a hot-swap bay is none."""
        carried = self.removable and self.transport not in BUILT_IN
        return carried or self.transport in PORTABLE

    @property
    def blank(self) -> bool:
        """It can be read, nothing is on it and nothing uses it."""
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
    """Serial numbers that several disks have: none of them can be named by it.

    One disk by two paths, two namespaces of one, or a maker that numbers nothing.
    """
    counted = Counter(disk.serial for disk in disks)
    return frozenset(serial for serial, count in counted.items() if count > 1)


@dataclass(frozen=True)
class VdevFacts:
    """One top-level vdev. kind: "mirror", "disk", "raidz1" ...; paths: its disks, as imported.

    state: ONLINE, DEGRADED ... (zpoolconcepts(7)). shared: those of the paths that hold one place
    together, while one takes over for another (zpool-replace(8)) or a spare stands in.
    """

    kind: str
    state: str
    paths: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...] = ()

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """The paths, place by place: nearly always one each."""
        several = {path for place in self.shared for path in place}
        return (*self.shared, *((path,) for path in self.paths if path not in several))


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
    """A file system of a pool. properties: only those set or received on it or defaults, as text.

    Numbers are exact bytes ("131072"), as zfs -p prints them.
    """

    name: str
    mountpoint: str
    mounted: bool
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class RoleFacts:
    """What the last task of a role wrote down (/var/lib/keystone/state/<role>.json).

    inputs: the hash that the role was applied with. drift: what differs since, one line each
    ("/etc/etcd/etcd.yaml: changed", "etcd.service: failed").
    """

    inputs: str
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreFacts:
    """The bundle's content on the host: its digest ("sha256:...") and whether all is in."""

    bundle: str | None = None
    complete: bool = False


@dataclass(frozen=True)
class PoolIntent:
    """Keystone's own note that a pool was being made on these blank disks and was not finished."""

    pool: str
    serials: tuple[str, ...]


@dataclass(frozen=True)
class StandingFacts:
    """What a host has of a site that was installed, whether it runs now or not.

    root: certificate of the site's root (PEM), "" for none. member: an etcd member's data is
    there, so a quorum once formed. kubernetes: version of its API server ("v1.37.2"); etcd: of its
    member's program ("3.7.3"); "" where there is none or it does not say. keys: SHA-256 of each key
    that its API server encrypts secrets with; "" for one that was there and is gone.
    """

    root: str = ""
    member: bool = False
    kubernetes: str = ""
    etcd: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """One host as it was seen, in one round trip.

    memory, root_free, var_free: bytes; root_free of /var where / is read-only. clock_offset:
    seconds that the host's clock is ahead of ours;
    clock_error: by how much that may be wrong (half the round trip). virtualization: as
    systemd-detect-virt(1) says. folders: those of the datasets' mount points that are folders.
    kernel_parts: "there", "module", "missing" or "" (not known), by module. settings: kernel
    settings by sysctl name. trial: it was installed for a trial site. networks: the addresses with
    their masks ("10.77.0.11/24"), the likeliest to be the machine's own first. ports: those
    Keystone needs that something listens on, with the program's name. kubernetes: paths of a
    cluster that exist (admin.conf, kubelet.conf, manifests, etcd data). clocks: active time
    services. silent_name_servers: addresses in /etc/resolv.conf that do not answer.
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

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of `networks`, without their masks."""
        return tuple(network.partition("/")[0] for network in self.networks)

    @property
    def container(self) -> bool:
        """It has another machine's kernel."""
        return self.virtualization in CONTAINERS

    def disk(self, serial: str) -> tuple[DiskFacts, ...]:
        """All disks with that serial number: one, when all is well."""
        return tuple(disk for disk in self.disks if disk.serial == serial)

    def pool(self, name: str) -> PoolFacts | None:
        """The imported pool of that name."""
        return next((pool for pool in self.pools if pool.name == name), None)
