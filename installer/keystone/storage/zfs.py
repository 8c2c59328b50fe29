"""ZFS on this host: pools by zpool(8), which alone can make them, datasets by libzfs_core.

libzfs_core makes a dataset with all its properties in one transaction of the pool and does not
mount it. Debian's python3-pyzfs brings it; it is imported when a dataset is made.
"""

from __future__ import annotations

import importlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.errors import HostError, RefusedError
from keystone.files import write_whole
from keystone.hosts.facts import DatasetFacts, PoolFacts
from keystone.hosts.observe import vdevs
from keystone.run import CommandError, run
from keystone.storage.plan import (
    POOL_PROPERTIES,
    ROOT_PROPERTIES,
    CreateDataset,
    CreatePool,
    ImportPool,
    Intent,
    MountDataset,
    SetProperties,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.storage.plan import StorageAction

CACHE_FILE = "/etc/zfs/zpool.cache"
MODULE = Path("/sys/module/zfs")
OPEN_TIMEOUT = MODULE / "parameters/zfs_vdev_open_timeout_ms"
LINK_DEADLINE_MS = 60_000
HOSTID = Path("/etc/hostid")
INTENT = Path("/var/lib/keystone/storage-intent.json")
SEEN = (
    "mountpoint", "mounted", "canmount", "recordsize", "logbias", "primarycache", "quota", "sync",
    "compression", "atime", "xattr", "acltype", "dnodesize", "used", "available",
)  # fmt: skip
INDEXES: Mapping[str, Mapping[str, int]] = {
    "logbias": {"latency": 0, "throughput": 1},
    "primarycache": {"none": 0, "metadata": 1, "all": 2},
    "sync": {"standard": 0, "always": 1, "disabled": 2},
    "compression": {"on": 1, "off": 2, "lz4": 15, "zstd": 16},
}
"""The kernel takes these as numbers (module/zcommon/zfs_prop.c, include/sys/fs/zfs.h of 2.3)."""


def _any_pool() -> bool:
    """Whether there is a pool to ask about; without the module there is none.

    Asked apart: with no pool at all the JSON forms answer in prose.
    """
    return MODULE.is_dir() and bool(run(["zpool", "list", "-H", "-o", "name"]).stdout.split())


def pools() -> tuple[PoolFacts, ...]:
    """The imported pools. Raises CommandError when zpool fails."""
    if not _any_pool():
        return ()
    listed = _json(["zpool", "get", "-j", "--json-int", "ashift,autotrim,health,guid"])
    status = _json(["zpool", "status", "-j", "--json-int", "-P"])
    return parse_pools(listed, status)


def parse_pools(listed: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[PoolFacts, ...]:
    """From `zpool get -j` and `zpool status -j -P` (OpenZFS 2.3)."""
    found = []
    for name, pool in listed.get("pools", {}).items():
        values = {key: str(entry["value"]) for key, entry in pool["properties"].items()}
        tree = status.get("pools", {}).get(name, {}).get("vdevs", {})
        found.append(
            PoolFacts(
                name=name,
                guid=int(values.get("guid", "0")),
                health=values.get("health", ""),
                ashift=int(values.get("ashift", "0")),
                vdevs=tuple(vdev for root in tree.values() for vdev in vdevs(root)),
                properties=values,
            )
        )
    return tuple(found)


def datasets() -> tuple[DatasetFacts, ...]:
    """All file systems of imported pools. Raises CommandError when zfs fails."""
    if not _any_pool():
        return ()
    argv = ["zfs", "get", "-j", "--json-int", "-p", "-t", "filesystem", ",".join(SEEN)]
    return parse_datasets(_json(argv))


def parse_datasets(got: Mapping[str, Any]) -> tuple[DatasetFacts, ...]:
    """From `zfs get -j -p` (OpenZFS 2.3)."""
    found = []
    for name, dataset in got.get("datasets", {}).items():
        values = {key: str(entry["value"]) for key, entry in dataset["properties"].items()}
        mounted = values.pop("mounted", "no") == "yes"
        found.append(DatasetFacts(name, values.get("mountpoint", ""), mounted, values))
    return tuple(found)


def apply(action: StorageAction) -> None:
    """Do one action. Raises CommandError, HostError, or RefusedError for a full mount point."""
    with log.step(action.describe()):
        match action:
            case CreatePool():
                _create_pool(action)
            case ImportPool():
                run(["zpool", "import", "-N", "-d", "/dev/disk/by-id", "-o",
                     f"cachefile={CACHE_FILE}", str(action.guid or action.pool)])  # fmt: skip
            case CreateDataset():
                _create_dataset(action)
            case MountDataset():
                _mount(action.name, action.mountpoint)
            case SetProperties():
                pairs = [f"{key}={value}" for key, value in sorted(action.properties.items())]
                words = [[pair, action.name] for pair in pairs]
                for word in words if action.kind == "pool" else [[*pairs, action.name]]:
                    run(["zpool" if action.kind == "pool" else "zfs", "set", *word])


def read_intent() -> Intent | None:
    """The note of a pool creation that was begun, if there is one."""
    if not INTENT.is_file():
        return None
    note = json.loads(INTENT.read_text())
    return Intent(note["pool"], tuple(note["serials"]))


def forget_intent() -> None:
    """The pool is whole: from now on nothing on its disks may be written over."""
    INTENT.unlink(missing_ok=True)
    _sync_directory(INTENT.parent)


def _create_pool(action: CreatePool) -> None:
    if not HOSTID.is_file():
        # The pool remembers it; without one every import after a restart would look foreign.
        run(["zgenhostid"])
    _write_intent(Intent(action.pool, action.serials))
    options = [word for key, value in {"ashift": str(action.ashift), **POOL_PROPERTIES,
                                       "cachefile": CACHE_FILE}.items()
               for word in ("-o", f"{key}={value}")]  # fmt: skip
    options += [w for key, value in ROOT_PROPERTIES.items() for w in ("-O", f"{key}={value}")]
    force = ["-f"] if action.half_made else []
    layout = [] if action.layout == "single" else [action.layout]
    with patient_with_links():
        run(["zpool", "create", *force, *options, action.pool, *layout, *action.paths])
    forget_intent()


@contextmanager
def patient_with_links() -> Iterator[None]:
    """Let the kernel wait for the partitions' by-id links while a pool is made.

    zpool partitions the disks and hands the kernel the new links, which udev takes away and makes
    again as it sees each change. The kernel looks for one second only (zfs(4),
    zfs_vdev_open_timeout_ms); a busy host needs longer and would say "one or more devices is
    currently unavailable". Not for good: at an import a disk that is gone would cost that wait. A
    run that is killed in here leaves it so until the host's next start.
    """
    if not OPEN_TIMEOUT.exists():  # a parameter of the module: another version may do without
        yield
        return
    usual = OPEN_TIMEOUT.read_text()
    OPEN_TIMEOUT.write_text(f"{LINK_DEADLINE_MS}\n")
    try:
        yield
    finally:
        OPEN_TIMEOUT.write_text(usual)


def _create_dataset(action: CreateDataset) -> None:
    try:
        core: Any = importlib.import_module("libzfs_core")
    except ImportError as error:
        raise HostError(
            f"dataset {action.name}: Python module libzfs_core is missing: {error}",
            hint="install python3-pyzfs from the bundle's seed (role seed)",
        ) from error
    wanted: dict[bytes, int | bytes] = {b"mountpoint": action.mountpoint.encode()}
    for key, text in action.properties.items():
        wanted[key.encode()] = INDEXES[key][text] if key in INDEXES else int(text)
    try:
        core.lzc_create(action.name.encode(), "zfs", wanted)
    except core.exceptions.FilesystemExists:
        log.debug(f"{action.name}: is there already")
    except core.exceptions.ZFSError as error:
        raise HostError(f"dataset {action.name}: {error}", hint="zfs list; zpool status") from error
    _mount(action.name, action.mountpoint)


def _mount(name: str, mountpoint: str) -> None:
    """Mount over an empty directory only: files below would be hidden, not lost, and forgotten."""
    place = Path(mountpoint)
    if place.is_dir() and any(place.iterdir()):
        raise RefusedError(
            f"dataset {name}: its mount point {mountpoint} is not empty",
            hint=f"move what is in {mountpoint} away, then re-run",
        )
    run(["zfs", "mount", name])


def _json(argv: list[str]) -> dict[str, Any]:
    shown = run(argv).stdout
    try:
        value: dict[str, Any] = json.loads(shown) if shown.strip() else {}
    except json.JSONDecodeError as error:
        raise CommandError(f"{' '.join(argv)}: no JSON: {error}", hint="OpenZFS 2.3?") from error
    return value


def _write_intent(intent: Intent) -> None:
    document = {"pool": intent.pool, "serials": list(intent.serials)}
    write_whole(INTENT, json.dumps(document).encode(), 0o644)


def _sync_directory(path: Path) -> None:
    if not path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
