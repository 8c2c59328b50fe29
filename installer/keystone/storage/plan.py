"""Plan the pool and datasets of a host, or refuse. Pure; zfs.py applies the plan.

A disk is identified by its serial number and used only when it is provably blank. The intent file
(see `Intent`) shows that Keystone began to create a pool and did not finish; any other content of a
disk is somebody's data. Terms: zpoolconcepts(7), zpoolprops(7), zfsprops(7).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from keystone.errors import RefusedError
from keystone.storage import pool_members
from keystone.storage.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.hosts.facts import DatasetFacts, DiskFacts, PoolFacts
    from keystone.site.model import Node, Storage

POOL_PROPERTIES = MappingProxyType({"autotrim": "on"})
ROOT_PROPERTIES = MappingProxyType(
    {
        "compression": "lz4", "atime": "off", "xattr": "sa", "acltype": "posix",
        "dnodesize": "auto", "canmount": "off", "mountpoint": "none",
    }
)  # fmt: skip
"""Properties of the pool's root dataset; the others inherit the first five. Values: zfs-get(8)."""


@dataclass(frozen=True)
class Intent:
    """Keystone's record that it is creating a pool.

    It is synced to the host's disk before `zpool create` and removed afterwards. While it exists,
    the disks of these serials were blank and approved, and the pool cannot have data: datasets are
    created only after the record is removed.
    """

    pool: str
    serials: tuple[str, ...]


class StorageFacts(Protocol):
    """The part of HostFacts that storage uses."""

    @property
    def disks(self) -> tuple[DiskFacts, ...]: ...  # noqa: D102 see HostFacts
    @property
    def pools(self) -> tuple[PoolFacts, ...]: ...  # noqa: D102 see HostFacts
    @property
    def datasets(self) -> tuple[DatasetFacts, ...]: ...  # noqa: D102 see HostFacts


@dataclass(frozen=True)
class CreatePool:
    """Create the pool. half_made: overwrite the remains of our own interrupted `zpool create`."""

    pool: str
    layout: str
    ashift: int
    paths: tuple[str, ...]
    serials: tuple[str, ...]
    half_made: bool = False
    destructive: ClassVar[bool] = True

    def describe(self) -> str:
        """Describe the action in one line."""
        again = " (its creation was interrupted before)" if self.half_made else ""
        return f"create pool {self.pool}, {self.layout} of {', '.join(self.paths)}{again}"


@dataclass(frozen=True)
class ImportPool:
    """Import our pool, which is on exactly these disks, without force."""

    pool: str
    guid: int
    paths: tuple[str, ...]
    destructive: ClassVar[bool] = False

    def describe(self) -> str:
        """Describe the action in one line."""
        return f"import pool {self.pool} from {', '.join(self.paths)}"


@dataclass(frozen=True)
class CreateDataset:
    """Create and mount a file system."""

    name: str
    mountpoint: str
    properties: Mapping[str, str]
    destructive: ClassVar[bool] = False

    def describe(self) -> str:
        """Describe the action in one line."""
        return f"create dataset {self.name} at {self.mountpoint}"


@dataclass(frozen=True)
class MountDataset:
    """Mount a file system that exists."""

    name: str
    mountpoint: str
    destructive: ClassVar[bool] = False

    def describe(self) -> str:
        """Describe the action in one line."""
        return f"mount dataset {self.name} at {self.mountpoint}"


@dataclass(frozen=True)
class SetProperties:
    """Correct properties. kind: "pool" (zpool-set(8)) or "dataset" (zfs-set(8))."""

    kind: str
    name: str
    properties: Mapping[str, str]
    destructive: ClassVar[bool] = False

    def describe(self) -> str:
        """Describe the action in one line."""
        pairs = ", ".join(f"{key}={value}" for key, value in sorted(self.properties.items()))
        return f"set on {self.kind} {self.name}: {pairs}"


@dataclass(frozen=True)
class MakeFolder:
    """Make a folder instead of a dataset; the role `storage` does it, without ZFS."""

    path: str
    destructive: ClassVar[bool] = False

    def describe(self) -> str:
        """Describe the action in one line."""
        return f"make folder {self.path}"


StorageAction = CreatePool | ImportPool | CreateDataset | MountDataset | SetProperties


def spec_of(storage: Storage, node: Node) -> Spec:
    """Return the storage spec of a host of a site."""
    serials = tuple(disk.serial for disk in node.disks)
    return Spec(storage.pool, storage.layout, storage.ashift, serials)


def plan(
    spec: Spec, facts: StorageFacts, intent: Intent | None = None
) -> tuple[StorageAction, ...]:
    """Return the actions that are needed; empty when the host matches the spec.

    Raises RefusedError, with every serial and what was found on it, when a disk is missing, named
    twice, in use or not blank, or when the pool of that name is not the one of the spec.
    """
    disks = by_serial(spec.serials, facts.disks)
    pool = next((pool for pool in facts.pools if pool.name == spec.pool), None)
    if pool is None:
        _require_free(spec, facts)
        first = _obtain(spec, disks, intent)
        # The datasets of an exported pool are known after the import: the next round plans them.
        return (first,) if isinstance(first, ImportPool) else (first, *_datasets(spec, {}))
    pool_members.require_same(spec, pool, disks, facts.disks)
    seen = {dataset.name: dataset for dataset in facts.datasets}
    actions: list[StorageAction] = []
    if drift := _drift(POOL_PROPERTIES, pool.properties):
        actions.append(SetProperties("pool", pool.name, drift))
    root = seen.get(spec.pool)
    if root and (drift := _drift(ROOT_PROPERTIES, _shown(root))):
        actions.append(SetProperties("dataset", spec.pool, drift))
    return (*actions, *_datasets(spec, seen))


def plan_folders(spec: Spec, there: Iterable[str]) -> tuple[MakeFolder, ...]:
    """Return the folders to make for layout "directory": one instead of each dataset.

    there: mount points that exist as folders. Making a folder destroys nothing.
    """
    known = set(there)
    wanted = (dataset.mountpoint for dataset in spec.datasets)
    return tuple(MakeFolder(path) for path in wanted if path not in known)


def plan_id(spec: Spec, facts: StorageFacts, actions: Sequence[StorageAction]) -> str:
    """Return the id that an operator approves: a hash of spec, observed disks and actions."""
    disks = [d for d in facts.disks if d.serial in spec.serials]
    seen = sorted((d.serial, d.model, d.size, d.by_id) for d in disks)
    text = json.dumps(
        [spec.to_json(), seen, [actions_to_json([action]) for action in actions]], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def actions_to_json(actions: Iterable[StorageAction]) -> list[dict[str, Any]]:
    """Return the actions for --json: kind, text, destructive and fields of each."""
    return [
        {
            "action": type(action).__name__,
            "text": action.describe(),
            "destructive": action.destructive,
            **{key: dict(value) if hasattr(value, "items") else value
               for key, value in vars(action).items()},
        }
        for action in actions
    ]  # fmt: skip


OWN_NAMES = ("wwn-", "nvme-eui.", "nvme-uuid.", "scsi-3", "dm-uuid-mpath-")
"""Prefixes of links by the disk's own id; other links without its serial may name a bay or port."""


def _names_serial(name: str, serial: str) -> bool:
    """Return whether a link ends with the serial (and a namespace, or a unit behind a bridge)."""
    ending = re.escape(re.sub(r"[^A-Za-z0-9#+.:=@_-]", "_", serial))
    return re.search(rf"[-_]{ending}(_\d+|-\d+:\d+)?$", name) is not None


def stable_path(disk: DiskFacts) -> str:
    """Return the link to pass to zpool: "/dev/disk/by-id/nvme-<model>_<serial>".

    udev also makes "..._<serial>_<namespace>" and eui and wwn links; which of them exist differs
    between versions of udev, so this is the shortest name that has the serial.
    Raises RefusedError when there is no link.
    """
    names = [link.rpartition("/")[2] for link in disk.by_id]
    with_serial = [n for n in names if _names_serial(n, disk.serial)]
    best = sorted(with_serial, key=lambda n: (not n.startswith("nvme-"), len(n), n)) or sorted(
        names, key=lambda n: (not n.startswith(OWN_NAMES), n)
    )
    if not best:
        raise RefusedError(
            f"disk {disk.serial} ({disk.path}): no link in /dev/disk/by-id",
            hint="a name such as /dev/nvme0n1 can refer to another disk after a restart; find out "
            f"why udev made no link: udevadm info {disk.path}",
        )
    return f"/dev/disk/by-id/{best[0]}"


def by_serial(serials: Iterable[str], disks: Sequence[DiskFacts]) -> tuple[DiskFacts, ...]:
    """Return the disks of these serials. Raises RefusedError with all not found exactly once."""
    problems = []
    found = []
    for serial in serials:
        same = [disk for disk in disks if serial and disk.serial == serial]
        if not same:
            there = ", ".join(f"{d.serial or 'no serial'} ({d.name})" for d in disks) or "none"
            named = serial or "without a serial number"
            problems.append(f"disk {named}: not found; disks of this host: {there}")
        elif len(same) > 1:
            paths = ", ".join(disk.path for disk in same)
            problems.append(
                f"disk {serial}: {len(same)} disks have this serial: {paths}; this is one disk on "
                "several paths, or disks without unique serials"
            )
        else:
            found.append(same[0])
    if problems:
        raise RefusedError(
            "\n".join(problems),
            hint="correct the serials; keystone-install storage probe shows them",
        )
    return tuple(found)


def _obtain(
    spec: Spec, disks: Sequence[DiskFacts], intent: Intent | None
) -> CreatePool | ImportPool:
    """Return the action for a missing pool: create it, finish its creation, or import it."""
    paths = tuple(stable_path(disk) for disk in disks)
    require_sectors(spec.ashift, disks)
    create = CreatePool(spec.pool, spec.layout, spec.ashift, paths, spec.serials)
    if all(disk.blank and not disk.read_only for disk in disks):
        return create
    ours = intent and (intent.pool, sorted(intent.serials)) == (spec.pool, sorted(spec.serials))
    if ours and all(_only_ours(disk, spec.pool) for disk in disks):
        return CreatePool(spec.pool, spec.layout, spec.ashift, paths, spec.serials, half_made=True)
    labels = {disk.zpool_label for disk in disks if disk.zpool_label}
    guids = {label.guid for label in labels}
    complete = all(disk.zpool_label and _only_ours(disk, spec.pool) for disk in disks)
    if complete and len(guids) == 1:
        return ImportPool(spec.pool, guids.pop(), paths)
    problems = [
        f"disk {disk.serial} ({disk.path}): {why}"
        for disk in disks
        if (why := found_on(disk) or ("is read-only" if disk.read_only else ""))
    ]
    raise RefusedError("\n".join(problems), hint=way_out(disks))


def way_out(disks: Sequence[DiskFacts]) -> str:
    """Return the hint for disks of which at least one cannot be used."""
    bad = [disk.serial for disk in disks if disk.unreadable or disk.read_only]
    if bad:
        return f"replace {', '.join(bad)} or remove its write protection, or name other disks"
    return (
        "Keystone uses blank disks only. If you do not need the data, wipe the disks yourself and "
        f"run again: {'; '.join(emptied(disk) for disk in disks if found_on(disk))}"
    )


def require_sectors(ashift: int, disks: Sequence[DiskFacts]) -> None:
    """Raise RefusedError when a disk's sectors are larger than the pool's (zpoolprops(7))."""
    if small := [disk for disk in disks if too_small(ashift, disk)]:
        shown = ", ".join(f"disk {d.serial} of {d.logical_sector} bytes" for d in small)
        raise RefusedError(
            f"ashift {ashift} means sectors of {1 << ashift} bytes, smaller than those of {shown}",
            hint=f"set ashift: {fitting_ashift(max(disk.logical_sector for disk in small))} "
            "(spec.storage in the site file)",
        )


def fitting_ashift(sector: int) -> int:
    """Return the smallest ashift for a new pool. sector: size of a disk's sectors, in bytes."""
    return max(12, (sector - 1).bit_length())


def too_small(ashift: int, disk: DiskFacts) -> bool:
    """Return whether ZFS would refuse the disk because its sectors are larger than the pool's."""
    return 1 << ashift < disk.logical_sector


def emptied(disk: DiskFacts) -> str:
    """Return the command that wipes a disk, for a person to run, with each device's full name.

    A pattern such as /dev/sda* would also match /dev/sdaa.
    """
    return " ".join(["wipefs --all", *(f"/dev/{name}" for name in disk.partitions), disk.path])


def _require_free(spec: Spec, facts: StorageFacts) -> None:
    """Raise RefusedError when another imported pool uses one of the disks, even without labels."""
    taken = [
        f"disk {serial}: belongs to pool {pool.name} (guid {pool.guid}), which is imported"
        for pool in facts.pools
        for serial in pool_members.members(pool, facts.disks, spec.serials)
        if serial in spec.serials
    ]
    if taken:
        raise RefusedError(
            "\n".join(taken), hint="name other disks; zpool status shows the pool's disks"
        )


def _only_ours(disk: DiskFacts, pool: str) -> bool:
    """Return whether a disk has only ZFS labels of our pool and ZFS partitions, and is unused."""
    foreign = [s for s in disk.signatures if not s.endswith("zfs_member")]
    label = disk.zpool_label
    used = disk.mounted or disk.holders or disk.read_only or disk.unreadable
    return not foreign and not used and (label is None or label.pool == pool)


def found_on(disk: DiskFacts) -> str:
    """Describe what is on a disk; "" when it is blank."""
    label = disk.zpool_label
    parts = [
        f"cannot be read: {disk.unreadable}" if disk.unreadable else "",
        f"mounted at {', '.join(disk.mounted)}" if disk.mounted else "",
        f"in use by {', '.join(disk.holders)}" if disk.holders else "",
        f"holds pool {label.pool} (guid {label.guid})" if label else "",
        f"signatures {', '.join(disk.signatures)}" if disk.signatures else "",
        f"partition table {disk.partition_table}" if disk.partition_table else "",
        f"partitions {', '.join(disk.partitions)}" if disk.partitions else "",
    ]
    return "; ".join(filter(None, parts))


def _datasets(spec: Spec, seen: Mapping[str, DatasetFacts]) -> Iterator[StorageAction]:
    for wanted in spec.datasets:
        name = f"{spec.pool}/{wanted.name}"
        found = seen.get(name)
        if found is None:
            yield CreateDataset(name, wanted.mountpoint, wanted.properties)
            continue
        goal = {**wanted.properties, "mountpoint": wanted.mountpoint}
        if drift := _drift(goal, _shown(found)):
            yield SetProperties("dataset", name, drift)
        if not found.mounted:
            yield MountDataset(name, wanted.mountpoint)


def _shown(dataset: DatasetFacts) -> dict[str, str]:
    return {**dataset.properties, "mountpoint": dataset.mountpoint or "none"}


def _drift(wanted: Mapping[str, str], seen: Mapping[str, str]) -> dict[str, str]:
    """Return the wanted properties whose observed values differ."""
    same = {"on": "sa"}  # zfs-get shows xattr=sa under either name, by version
    return {
        key: value
        for key, value in wanted.items()
        if key in seen and value not in (seen[key], same.get(seen[key]) if key == "xattr" else None)
    }
