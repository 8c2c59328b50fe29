"""Observe hosts, with one round trip each, and parse the results into frozen types.

`probe.py` runs on the host and prints a JSON object; `parse`, a pure function that is tested with
recorded objects, turns it into HostFacts. `probe` and `probe_all` run the program.
"""

from __future__ import annotations

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyudev

from keystone.errors import HostError
from keystone.hosts.facts import (
    TABLES,
    DatasetFacts,
    DiskFacts,
    HostFacts,
    PoolFacts,
    PoolIntent,
    PoolLabel,
    RoleFacts,
    SealFacts,
    StandingFacts,
    StoreFacts,
    VdevFacts,
)
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keystone.run import Host

PROBE_SECONDS = 180
"""Timeout: an emulated machine under load takes tens of seconds to start Python and query ZFS."""


def probe(host: Host, *, deep: bool = False, seconds: float = PROBE_SECONDS) -> HostFacts:
    """Observe one host without changing it. deep: hash large files even if their times are old.

    seconds: how long to wait.

    Raises HostError when the host cannot be reached, has no Python 3, or prints no valid object.
    """
    before = time.time()
    result = host.run(
        ["python3", "-I", "-", json.dumps({"deep": deep})], data=_script(), timeout=seconds
    )
    after = time.time()
    try:
        return parse(host.name, json.loads(result.stdout), (before, after))
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"{host.name}: the output of the probe is invalid: {error!r}",
            hint="remove all output from the host's login scripts; the output begins with: "
            f"{result.stdout[:200]!r}",
        ) from error


def probe_all(hosts: Mapping[str, Host], *, deep: bool = False) -> dict[str, HostFacts]:
    """Observe all hosts in parallel. Raises one HostError that names every host that failed."""
    seen, failed = probe_each(hosts, deep=deep)
    failures = list(failed.values())
    if failures:
        raise HostError(
            "\n".join(failure.message for failure in failures),
            hint=failures[0].hint or "nothing was changed; make the host reachable and run again",
        )
    return seen


def probe_each(
    hosts: Mapping[str, Host], *, deep: bool = False, seconds: float = PROBE_SECONDS
) -> tuple[dict[str, HostFacts], dict[str, HostError]]:
    """Observe all hosts in parallel; return facts and errors, each by the host's name."""

    def one(host: Host) -> HostFacts:
        return probe(host, deep=deep, seconds=seconds)

    seen: dict[str, HostFacts] = {}
    failed: dict[str, HostError] = {}
    with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as pool:
        started = {name: pool.submit(one, host) for name, host in hosts.items()}
        for name, future in started.items():
            try:
                seen[name] = future.result()
            except HostError as error:
                failed[name] = error
    return seen, failed


def disks() -> tuple[DiskFacts, ...]:
    """Observe the disks of this host, with the same program, right before one is written.

    Links in /dev/disk/by-id that udev does not know (pyudev) are ignored. Raises CommandError when
    the probe fails.
    """
    return tuple(_with_links_of_udev(_disk(seen)) for seen in _only("disks"))


def certificates() -> dict[str, str]:
    """Return the certificates on this host (PEM), by path, as `HostFacts.certificates`."""
    return dict(_only("certificates"))


def _only(part: str) -> Any:  # noqa: ANN401 JSON
    argv = [sys.executable, "-I", "-", json.dumps({"only": part})]
    return json.loads(run(argv, data=_script(), timeout=PROBE_SECONDS).stdout)[part]


def _with_links_of_udev(disk: DiskFacts) -> DiskFacts:
    try:
        known = set(pyudev.Devices.from_device_file(pyudev.Context(), disk.path).device_links)
    except (OSError, pyudev.DeviceNotFoundError):
        return disk  # udev does not know the device (any more): keep the links that lead to it
    return replace(disk, by_id=tuple(link for link in disk.by_id if link in known))


def local_addresses() -> frozenset[str]:
    """Return the addresses of this machine, without loopback."""
    links = json.loads(run(["ip", "-j", "address"]).stdout)
    return frozenset(
        entry["local"]
        for link in links
        for entry in link.get("addr_info", [])
        if "local" in entry and entry.get("scope") != "host"
    )


@cache
def _script() -> str:
    return resources.files("keystone").joinpath("hosts", "probe.py").read_text()


# Parsing ------------------------------------------------------------------------------------


def parse(name: str, seen: Mapping[str, Any], asked: tuple[float, float]) -> HostFacts:
    """Parse the probe's JSON. asked: our clock before and after the probe (seconds since 1970).

    Raises KeyError, TypeError or ValueError when the probe cannot have printed this.
    """
    middle, half = sum(asked) / 2, abs(asked[1] - asked[0]) / 2
    return HostFacts(
        name=name,
        hostname=seen["hostname"],
        machine_id=seen["machine_id"],
        root=seen["euid"] == 0,
        **_system(seen["os"]),
        kernel=seen["kernel"],
        architecture=seen["architecture"],
        python=(int(seen["python"][0]), int(seen["python"][1])),
        memory=int(seen["memory"]),
        root_free=int(seen["root_free"]),
        var_free=int(seen["var_free"]),
        trial=bool(seen["trial"]),
        folders=tuple(seen["folders"]),
        kernel_parts=MappingProxyType(dict(seen["kernel_parts"])),
        settings=MappingProxyType({name: int(value) for name, value in seen["settings"].items()}),
        silent_name_servers=tuple(seen["silent_name_servers"]),
        cgroup=int(seen["cgroup"]),
        virtualization=seen["virtualization"],
        clock_offset=float(seen["clock"]) - middle,
        clock_error=half,
        swaps=tuple(seen["swaps"]),
        networks=tuple(seen["networks"]),
        host_key=seen.get("host_key", ""),
        ports=MappingProxyType({int(port): str(who) for port, who in seen["ports"].items()}),
        clocks=tuple(seen["clocks"]),
        zfs_module=seen["zfs"]["module"],
        disks=tuple(_disk(disk) for disk in seen["disks"]),
        pools=_pools(seen["zfs"]),
        datasets=_datasets(seen["zfs"]),
        roles=_roles(seen["roles"]),
        store=StoreFacts(seen["store"].get("bundle"), seen["store"].get("complete") is True),
        kubernetes=tuple(seen["kubernetes"]),
        intent=_intent(seen["intent"]),
        standing=_standing(seen["standing"]),
        certificates=MappingProxyType(dict(seen.get("certificates", {}))),
        upkeep=MappingProxyType(dict(seen.get("upkeep", {}))),
        seal=_seal(seen.get("seal", {})),
    )


def _standing(seen: Mapping[str, Any]) -> StandingFacts:
    lists = {name: tuple(seen.get(name, ())) for name in ("keys", "initial", "timing")}
    return StandingFacts(**{**seen, **lists})


def _seal(seen: Mapping[str, Any]) -> SealFacts:
    lists = {name: tuple(map(str, seen.get(name, ()))) for name in ("peers", "plain", "shut")}
    return SealFacts(str(seen.get("thumbprint", "")), **lists)


def _system(seen: Mapping[str, Any]) -> dict[str, str]:
    return {
        "os_id": seen.get("ID", ""),
        "os_version": seen.get("VERSION_ID", ""),
        "os_name": seen.get("PRETTY_NAME", "unknown"),
    }


def _roles(seen: Mapping[str, Any]) -> Mapping[str, RoleFacts]:
    return MappingProxyType({
        role: RoleFacts(str(marker["inputs"]), tuple(marker["drift"]))
        for role, marker in seen.items()
    })  # fmt: skip


def _intent(seen: Mapping[str, Any] | None) -> PoolIntent | None:
    return PoolIntent(str(seen["pool"]), tuple(seen["serials"])) if seen else None


def _disk(seen: Mapping[str, Any]) -> DiskFacts:
    tree, parts = seen["lsblk"], list(_below(seen["lsblk"]))
    found = [(tree["kname"], signature) for signature in seen["signatures"].get(tree["path"], [])]
    for part in parts:
        found += [(part["kname"], s) for s in seen["signatures"].get(part["path"], [])]
    signatures = {f"{device}: {s['type']}" for device, s in found if s["type"] not in TABLES}
    mounted = [m for part in [tree, *parts] for m in part.get("mountpoints") or [] if m]
    table = [s["type"] for device, s in found if device == tree["kname"] and s["type"] in TABLES]
    return DiskFacts(
        name=tree["name"],
        path=tree["path"],
        by_id=tuple(sorted(seen["by_id"], key=_link_rank)),
        serial=(tree.get("serial") or "").strip(),
        model=(tree.get("model") or "").strip(),
        size=int(tree["size"]),
        logical_sector=int(tree["log-sec"]),
        physical_sector=int(tree["phy-sec"]),
        transport=tree.get("tran") or "",
        removable=bool(tree["rm"]),
        read_only=bool(tree["ro"]),
        partition_table=tree.get("pttype") or (table[0] if table else ""),
        partitions=tuple(part["kname"] for part in parts if part["type"] == "part"),
        signatures=tuple(sorted(signatures)),
        mounted=tuple(dict.fromkeys(mounted)),
        holders=tuple(seen["holders"]),
        zpool_label=_pool_label([s for _, s in found], int(seen["hostid"])),
        unreadable=str(seen["unreadable"]),
    )


def _below(tree: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for child in tree.get("children") or []:
        yield child
        yield from _below(child)


def _link_rank(link: str) -> tuple[int, int, str]:
    """Rank nvme-<model>_<serial> before wwn-... before nvme-eui..., then shorter links first."""
    base = link.rpartition("/")[2]
    plain = base.startswith(("nvme-", "ata-", "scsi-", "virtio-"))
    opaque = base.startswith(("nvme-eui.", "nvme-nvme.", "nvme-uuid."))
    return (2 if opaque else 0 if plain else 1, len(base), base)


def _pool_label(signatures: list[Mapping[str, Any]], hostid: int) -> PoolLabel | None:
    """Parse zfs_member of libblkid: LABEL is the pool's name, UUID its guid in decimal."""
    members = [s for s in signatures if s["type"] == "zfs_member"]
    if not members:
        return None
    pool = next((s["label"] for s in members if s.get("label")), "")
    guid = next((s["uuid"] for s in members if s.get("uuid")), "0")
    return PoolLabel(pool, int(guid) if str(guid).isdecimal() else 0, hostid)


def _pools(zfs: Mapping[str, Any]) -> tuple[PoolFacts, ...]:
    """Parse `zpool status -jP --json-int` and `zpool get -j` (zpool-status(8), OpenZFS 2.3)."""
    statuses = (zfs["status"] or {}).get("pools", {})
    properties = (zfs["pool_properties"] or {}).get("pools", {})
    return tuple(
        _pool(name, status, properties.get(name, {}).get("properties", {}))
        for name, status in sorted(statuses.items())
    )


def _pool(name: str, status: Mapping[str, Any], properties: Mapping[str, Any]) -> PoolFacts:
    values = {key: str(entry["value"]) for key, entry in properties.items()}
    root = status["vdevs"][name]
    return PoolFacts(
        name=name,
        guid=int(status["pool_guid"]),
        health=status["state"],
        ashift=int(values.get("ashift", "0")),
        vdevs=vdevs(root),
        properties=MappingProxyType(values),
    )


STAND_IN = frozenset({"replacing", "spare"})
"""Kinds of vdevs whose disks count as one member (zpoolconcepts(7))."""
NO_DISK = frozenset({"hole", "indirect", "missing"})
"""Kinds of the remains of a removed vdev (zpool-remove(8))."""


def vdevs(root: Mapping[str, Any]) -> tuple[VdevFacts, ...]:
    """Return the top-level vdevs that hold data. root: a pool's root in `zpool status -j -P`."""
    return tuple(_vdev(top) for top in root.get("vdevs", {}).values()
                 if top.get("vdev_type") not in NO_DISK)  # fmt: skip


def _vdev(top: Mapping[str, Any]) -> VdevFacts:
    kind = str(top.get("vdev_type", ""))
    shared = tuple(tuple(_leaves(vdev)) for vdev in _stand_ins(top))
    # In a pool of one disk, "replacing" or "spare" is the top-level vdev.
    kind = "disk" if kind in STAND_IN else kind
    return VdevFacts(kind, str(top.get("state", "")), tuple(_leaves(top)), shared)


def _stand_ins(vdev: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if vdev.get("vdev_type") in STAND_IN:
        yield vdev
        return
    for child in vdev.get("vdevs", {}).values():
        yield from _stand_ins(child)


def _leaves(vdev: Mapping[str, Any]) -> Iterable[str]:
    """Yield the paths of the disks; ZFS names the partition that it made on each (-part1)."""
    if "vdevs" in vdev:
        for child in vdev["vdevs"].values():
            yield from _leaves(child)
    else:
        yield re.sub(
            r"(/by-id/.*)-part[0-9]+$", r"\1", str(vdev.get("path") or vdev.get("name", ""))
        )


def _datasets(zfs: Mapping[str, Any]) -> tuple[DatasetFacts, ...]:
    """Parse `zfs get -j -p` (zfs-get(8), OpenZFS 2.3)."""
    found = []
    for name, dataset in sorted(((zfs["datasets"] or {}).get("datasets", {})).items()):
        values = {key: str(entry["value"]) for key, entry in dataset["properties"].items()}
        mountpoint, mounted = values.pop("mountpoint", "none"), values.pop("mounted", "no")
        found.append(DatasetFacts(name, mountpoint, mounted == "yes", MappingProxyType(values)))
    return tuple(found)
