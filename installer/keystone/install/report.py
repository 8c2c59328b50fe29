"""What a Primer says about itself: `keystone-install member report`, in a bounded time.

`gather` runs on the host and asks everything side by side; a part that fails is empty, and `wrong`
says why. `parse` reads what it printed. Nothing is changed.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from keystone.bundle.model import STORE
from keystone.cluster import etcdctl, kubeadm, snapshot_files, snapshots
from keystone.cluster.etcd import MemberStatus
from keystone.cluster.facts import ClusterFacts, NodeFacts, WorkloadFacts, observe_cluster
from keystone.errors import HostError, KeystoneError
from keystone.hosts import observe
from keystone.install import maintain
from keystone.install.actions import INSTALLER, MARKERS
from keystone.install.maintain import Record
from keystone.pki import lives
from keystone.pki.lives import Life
from keystone.run import Host, run
from keystone.storage import zfs
from keystone.store import store as stores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from keystone.storage.zfs import PoolUse

    Part = TypeVar("Part")

ETCD_SECONDS = 2
API_SECONDS = 4
POOL_SECONDS = 2.0
FOLDER = Path("/var/lib")
UPTIME = Path("/proc/uptime")
"""proc_uptime(5): seconds since the kernel started."""


@dataclass(frozen=True)
class Carried:
    """The bundle in a Primer's store, and versions of its parts, without "v"."""

    name: str = ""
    number: int = 0
    kubernetes: str = ""
    etcd: str = ""


@dataclass(frozen=True)
class Kept:
    """The snapshots on a Primer. taken, revision: of the newest; None and 0 without any."""

    count: int = 0
    taken: dt.datetime | None = None
    revision: int = 0


@dataclass(frozen=True)
class HostReport:
    """The report of one Primer.

    members: of etcd, as this host reaches them; serves: a majority answers a read. cluster: None
    if the API does not answer here, or it is no control plane. free, size: bytes of the file system
    of /var/lib. since: when its maintenance could first run, which is when its role was applied or
    the machine started. wrong: for each part that could not be looked at, why.
    """

    certificates: tuple[Life, ...] = ()
    members: tuple[MemberStatus, ...] = ()
    serves: bool = False
    cluster: ClusterFacts | None = None
    pools: tuple[PoolUse, ...] = ()
    free: int = 0
    size: int = 0
    snapshots: Kept = field(default_factory=Kept)
    maintenance: Mapping[str, Record] = field(default_factory=dict)
    since: dt.datetime | None = None
    carried: Carried = field(default_factory=Carried)
    wrong: Mapping[str, str] = field(default_factory=dict)


def gather() -> HostReport:
    """Look at this host. It takes at most about 6 seconds, all parts side by side."""
    wrong: dict[str, str] = {}

    def part(name: str, ask: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return ask()
        except (KeystoneError, OSError, ValueError, LookupError, TypeError) as error:
            wrong[name] = str(error).splitlines()[0] if str(error) else repr(error)
            return otherwise

    with ThreadPoolExecutor(8) as pool:
        asked: dict[str, Future[Any]] = {
            "certificates": pool.submit(part, "certificates", _certificates, ()),
            "members": pool.submit(part, "members", _members, ()),
            "serves": pool.submit(part, "serves", _serves, False),
            "cluster": pool.submit(part, "cluster", _cluster, None),
            "pools": pool.submit(part, "pools", _pools, ()),
            "snapshots": pool.submit(part, "snapshots", _snapshots, Kept()),
            "maintenance": pool.submit(part, "maintenance", maintain.read, {}),
            "since": pool.submit(part, "since", _since, None),
            "carried": pool.submit(part, "carried", _carried, Carried()),
        }
        found: dict[str, Any] = {name: future.result() for name, future in asked.items()}
    disk = shutil.disk_usage(FOLDER)
    return HostReport(**found, free=disk.free, size=disk.total, wrong=wrong)


def ask(host: Host, seconds: float) -> HostReport:
    """Return the report of a host, within that many seconds.

    Raises HostError if it does not answer, or its installer prints something else.
    """
    if host.local:
        return gather()
    answer = host.run([INSTALLER, "member", "report"], timeout=seconds)
    try:
        return parse(json.loads(answer.stdout))
    except (ValueError, TypeError, LookupError) as error:
        raise HostError(
            f"{host.name}: its installer prints no valid report: {error!r}",
            hint="install the same version on every Primer: run keystone-install",
        ) from error


def _certificates() -> tuple[Life, ...]:
    return lives.of(observe.certificates())


def _members() -> tuple[MemberStatus, ...]:
    return etcdctl.members(ETCD_SECONDS) if _has_etcd() else ()


def _serves() -> bool:
    if not _has_etcd():
        return False
    # A read through the majority: a member names a leader that is gone for some seconds.
    words = etcdctl.words("get", snapshot_files.SITE_KEY, timeout=f"{ETCD_SECONDS}s")
    return run(words, check=False, timeout=ETCD_SECONDS + 5).returncode == 0


def _has_etcd() -> bool:
    return (etcdctl.PKI / "client.crt").exists()


def _cluster() -> ClusterFacts | None:
    if not Path(kubeadm.ADMIN_CONF).exists():
        return None
    return observe_cluster(Host("here", "127.0.0.1", local=True), seconds=API_SECONDS)


def _pools() -> tuple[PoolUse, ...]:
    return zfs.usage(POOL_SECONDS)


def _snapshots() -> Kept:
    kept = snapshot_files.listed()
    newest = snapshots.newest(kept)
    return Kept(len(kept), newest.taken, newest.revision) if newest else Kept()


def _since() -> dt.datetime | None:
    marker = Path(MARKERS, "maintain.json")
    if not marker.exists():
        return None
    booted = time.time() - float(UPTIME.read_text().split()[0])
    return dt.datetime.fromtimestamp(max(booted, marker.stat().st_mtime), dt.UTC)


def _carried() -> Carried:
    manifest = stores.load_manifest(Path(STORE))
    return Carried(
        manifest.name,
        manifest.number,
        kubeadm.version(manifest).removeprefix("v"),
        manifest.item("binary", "etcd").version.removeprefix("v"),
    )


def parse(seen: Mapping[str, Any]) -> HostReport:
    """Parse the JSON of a HostReport. Raises KeyError, TypeError or ValueError for other JSON."""
    cluster = seen["cluster"]
    return HostReport(
        certificates=tuple(_life(one) for one in seen["certificates"]),
        members=tuple(
            MemberStatus(**{**one, "errors": tuple(one["errors"])}) for one in seen["members"]
        ),
        serves=seen["serves"] is True,
        cluster=None if cluster is None else _parse_cluster(cluster),
        pools=tuple(zfs.PoolUse(**{**one, "scrubbed": _time(one["scrubbed"])})
                    for one in seen["pools"]),
        free=int(seen["free"]),
        size=int(seen["size"]),
        snapshots=Kept(**{**seen["snapshots"], "taken": _time(seen["snapshots"]["taken"])}),
        maintenance={name: Record(**one) for name, one in seen["maintenance"].items()},
        since=_time(seen["since"]),
        carried=Carried(**seen["carried"]),
        wrong={str(name): str(why) for name, why in seen["wrong"].items()},
    )  # fmt: skip


def _life(one: Mapping[str, Any]) -> Life:
    times = {key: dt.datetime.fromisoformat(one[key]) for key in ("not_before", "not_after")}
    return Life(str(one["path"]), one["authority"] is True, **times)


def _time(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None


def _parse_cluster(seen: Mapping[str, Any]) -> ClusterFacts:
    nodes = (NodeFacts(**{**one, "addresses": tuple(one["addresses"])}) for one in seen["nodes"])
    return ClusterFacts(tuple(nodes), tuple(WorkloadFacts(**one) for one in seen["workloads"]))
