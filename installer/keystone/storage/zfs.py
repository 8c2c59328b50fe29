"""Observe and change ZFS on this host: pools with zpool(8), datasets with libzfs_core.

Only zpool(8) can create pools. libzfs_core creates a dataset with all its properties in one
transaction and does not mount it. Debian's python3-pyzfs has it; it is imported when needed.
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
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
"""Numbers that the kernel uses for values (module/zcommon/zfs_prop.c, include/sys/fs/zfs.h, 2.3).
"""


def _any_pool() -> bool:
    """Return whether any pool is imported; without the module none is.

    Needed because, without any pool, the commands with -j print text that is not JSON.
    """
    return MODULE.is_dir() and bool(run(["zpool", "list", "-H", "-o", "name"]).stdout.split())


def pools() -> tuple[PoolFacts, ...]:
    """Return the imported pools. Raises CommandError when zpool fails."""
    if not _any_pool():
        return ()
    listed = _json(["zpool", "get", "-j", "--json-int", "ashift,autotrim,health,guid"])
    status = _json(["zpool", "status", "-j", "--json-int", "-P"])
    return parse_pools(listed, status)


def parse_pools(listed: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[PoolFacts, ...]:
    """Parse `zpool get -j` and `zpool status -j -P` (OpenZFS 2.3)."""
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


@dataclass(frozen=True)
class PoolUse:
    """How an imported pool is. size, allocated: bytes. errors: files that are damaged.

    scrubbed: when all of it was read and compared last; None if never, or if that is unknown.
    """

    name: str
    health: str
    size: int
    allocated: int
    errors: int = 0
    scrubbed: dt.datetime | None = None


def usage(seconds: float) -> tuple[PoolUse, ...]:
    """Return the imported pools and how full they are.

    Raises CommandError when zpool fails, or takes longer than these seconds: it waits for disks.
    """
    if not MODULE.is_dir():
        return ()

    def ask(*words: str) -> str:
        return run(["zpool", *words], timeout=seconds).stdout

    if not ask("list", "-H", "-o", "name").split():
        return ()
    got = json.loads(ask("get", "-j", "-p", "--json-int", "size,allocated,health"))
    return parse_usage(got, json.loads(ask("status", "-j", "--json-int", "-P")))


def parse_usage(got: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[PoolUse, ...]:
    """Parse `zpool get -j -p` and `zpool status -j --json-int` (OpenZFS 2.3)."""
    found = []
    for name, pool in sorted(got.get("pools", {}).items()):
        values = {key: entry["value"] for key, entry in pool["properties"].items()}
        state = status.get("pools", {}).get(name, {})
        found.append(PoolUse(
            name, str(values["health"]), int(values["size"]), int(values["allocated"]),
            int(state.get("error_count", 0)), _scrubbed(state.get("scan_stats", {})),
        ))  # fmt: skip
    return tuple(found)


def _scrubbed(scan: Mapping[str, Any]) -> dt.datetime | None:
    """Return when the last scrub ended: seconds since 1970 with --json-int, else ctime(3)."""
    if (scan.get("function"), scan.get("state")) != ("SCRUB", "FINISHED"):
        return None
    ended = str(scan.get("end_time", ""))
    if ended.isdecimal():
        return dt.datetime.fromtimestamp(int(ended), dt.UTC)
    try:
        return dt.datetime.strptime(ended, "%a %b %d %H:%M:%S %Y").astimezone(dt.UTC)
    except ValueError:
        return None


def datasets() -> tuple[DatasetFacts, ...]:
    """Return all file systems of imported pools. Raises CommandError when zfs fails."""
    if not _any_pool():
        return ()
    argv = ["zfs", "get", "-j", "--json-int", "-p", "-t", "filesystem", ",".join(SEEN)]
    return parse_datasets(_json(argv))


def parse_datasets(got: Mapping[str, Any]) -> tuple[DatasetFacts, ...]:
    """Parse `zfs get -j -p` (OpenZFS 2.3)."""
    found = []
    for name, dataset in got.get("datasets", {}).items():
        values = {key: str(entry["value"]) for key, entry in dataset["properties"].items()}
        mounted = values.pop("mounted", "no") == "yes"
        found.append(DatasetFacts(name, values.get("mountpoint", ""), mounted, values))
    return tuple(found)


def apply(action: StorageAction) -> None:
    """Apply one action. Raises CommandError, HostError; RefusedError if a mount point has files."""
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
    """Return the record of an unfinished creation of a pool, or None."""
    if not INTENT.is_file():
        return None
    record = json.loads(INTENT.read_text())
    return Intent(record["pool"], tuple(record["serials"]))


def forget_intent() -> None:
    """Remove the record: the pool is complete, and nothing may overwrite its disks from now on."""
    INTENT.unlink(missing_ok=True)
    _sync_directory(INTENT.parent)


def _create_pool(action: CreatePool) -> None:
    if not HOSTID.is_file():
        # The pool stores the host id; without one, imports after a restart would need force.
        run(["zgenhostid"])
    _write_intent(Intent(action.pool, action.serials))
    options = [word for key, value in {"ashift": str(action.ashift), **POOL_PROPERTIES,
                                       "cachefile": CACHE_FILE}.items()
               for word in ("-o", f"{key}={value}")]  # fmt: skip
    options += [w for key, value in ROOT_PROPERTIES.items() for w in ("-O", f"{key}={value}")]
    force = ["-f"] if action.half_made else []
    layout = [] if action.layout == "single" else [action.layout]
    with longer_open_timeout():
        run(["zpool", "create", *force, *options, action.pool, *layout, *action.paths])
    forget_intent()


@contextmanager
def longer_open_timeout() -> Iterator[None]:
    """Let the kernel wait up to 60 s for the partitions' by-id links while a pool is created.

    zpool partitions the disks and passes the new links to the kernel, while udev removes and makes
    them again for each change. The kernel waits 1 s only (zfs(4), zfs_vdev_open_timeout_ms); on a
    busy host zpool would fail with "one or more devices is currently unavailable". The block
    restores the old value, because an import would wait this long for each missing disk. A run
    that is killed inside the block leaves the longer timeout until the host's next start.
    """
    if not OPEN_TIMEOUT.exists():  # another version of the module may not have the parameter
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
        log.debug(f"{action.name}: exists already")
    except core.exceptions.ZFSError as error:
        raise HostError(
            f"dataset {action.name}: {error}", hint="find the cause: zfs list; zpool status"
        ) from error
    _mount(action.name, action.mountpoint)


def _mount(name: str, mountpoint: str) -> None:
    """Mount over an empty folder only: a mount would hide files, and people would forget them."""
    place = Path(mountpoint)
    if place.is_dir() and any(place.iterdir()):
        raise RefusedError(
            f"dataset {name}: its mount point {mountpoint} is not empty",
            hint=f"move the files in {mountpoint} elsewhere, then run again",
        )
    run(["zfs", "mount", name])


def _json(argv: list[str]) -> dict[str, Any]:
    shown = run(argv).stdout
    try:
        value: dict[str, Any] = json.loads(shown) if shown.strip() else {}
    except json.JSONDecodeError as error:
        raise CommandError(
            f"{' '.join(argv)}: the output is not JSON: {error}",
            hint="install OpenZFS 2.3 or newer",
        ) from error
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
