"""The disks of this very host, as the storage command sees them a moment before it acts.

udev (pyudev) names the disks and their links, lsblk(8) says who uses them, and the bytes
themselves are asked for signatures (wipefs(8), blkid(8)): udev's memory may be stale.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyudev

from keystone.hosts import probe
from keystone.hosts.facts import TABLES, DiskFacts, PoolLabel
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

COLUMNS = "NAME,PATH,TYPE,SERIAL,MODEL,SIZE,LOG-SEC,PHY-SEC,TRAN,RM,RO,PTTYPE,MOUNTPOINTS"
NOT_DISKS = ("loop", "ram", "zram", "zd", "sr", "fd", "nbd")
BY_ID = "/dev/disk/by-id/"


def observe() -> tuple[DiskFacts, ...]:
    """All whole disks of this host, those that cannot be read too.

    Raises CommandError when there is no list of them.
    """
    listed = json.loads(run(["lsblk", "-J", "-b", "-o", COLUMNS]).stdout)
    return tuple(_look(entry) for entry in whole_disks(listed))


def _look(entry: Mapping[str, Any]) -> DiskFacts:
    """One disk. What fails is said of it alone: the others are what somebody looks for."""
    nodes = [entry["path"], *(part["path"] for part in partitions(entry))]
    by_id: list[str] = []
    try:
        by_id = links(entry["path"])
        if why := probe.unreadable(entry["path"], int(entry["size"])):
            return replace(parse(entry, by_id, {}, None), unreadable=why)
        signatures = {node: _signatures(node) for node in nodes}
        return parse(entry, by_id, signatures, next(filter(None, map(_label, nodes)), None))
    except (CommandError, OSError, pyudev.DeviceNotFoundError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        return replace(parse(entry, by_id, {}, None), unreadable=why)


def whole_disks(listed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The disks of `lsblk -J`, sorted by name.

    Left out: loops, RAM disks, zvols, drives, and what has no bytes (a reader without its card).
    """
    entries = [
        entry
        for entry in listed["blockdevices"]
        if entry["type"] == "disk"
        and int(entry["size"] or 0)
        and not entry["name"].startswith(NOT_DISKS)
    ]
    return sorted(entries, key=lambda entry: str(entry["name"]))


def partitions(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The partitions of one disk of `lsblk -J`."""
    return [child for child in entry.get("children", []) if child["type"] == "part"]


def parse(
    entry: Mapping[str, Any],
    by_id: Iterable[str],
    signatures: Mapping[str, Sequence[str]],
    label: PoolLabel | None,
) -> DiskFacts:
    """One disk of `lsblk -J`, with its links, the signatures of its nodes and its pool label."""
    parts = partitions(entry)
    below = list(_below(entry))
    mounts = [m for node in (entry, *below) for m in node.get("mountpoints") or [] if m]
    # udev's memory may be older than the bytes: a table that the kernel was not told of.
    tables = [kind for kind in signatures.get(entry["path"], ()) if kind in TABLES]
    return DiskFacts(
        name=entry["name"],
        path=entry["path"],
        by_id=tuple(sorted(by_id)),
        serial=(entry["serial"] or "").strip(),
        model=(entry["model"] or "").strip(),
        size=int(entry["size"]),
        logical_sector=int(entry["log-sec"]),
        physical_sector=int(entry["phy-sec"]),
        transport=entry["tran"] or "",
        removable=bool(entry["rm"]),
        read_only=bool(entry["ro"]),
        partition_table=entry["pttype"] or next(iter(tables), ""),
        partitions=tuple(part["name"] for part in parts),
        signatures=tuple(
            f"{node.rpartition('/')[2]}: {kind}"
            for node, kinds in signatures.items()
            for kind in kinds
            if kind not in TABLES
        ),
        mounted=tuple(sorted(set(mounts))),
        holders=tuple(node["name"] for node in below if node["type"] != "part"),
        zpool_label=label,
    )


def links(path: str) -> list[str]:
    """The links in /dev/disk/by-id that udev has made to a whole disk."""
    device = pyudev.Devices.from_device_file(pyudev.Context(), path)
    names = [link for link in device.device_links if link.startswith(BY_ID)]
    # Of two disks that claim one name, one has it.
    return [link for link in names if Path(link).resolve() == Path(path).resolve()]


def _below(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for child in entry.get("children", []):
        yield child
        yield from _below(child)


def _signatures(node: str) -> list[str]:
    """Kinds of signatures on one block device, each once."""
    shown = run(["wipefs", "--json", node]).stdout
    listed = json.loads(shown)["signatures"] if shown.strip() else []
    return list(dict.fromkeys(entry["type"] for entry in listed))


def _label(node: str) -> PoolLabel | None:
    """The pool that a block device says it belongs to: blkid(8) gives name and guid."""
    nothing_found = 2
    shown = run(["blkid", "--probe", "--output", "export", node], check=False)
    if shown.returncode not in (0, nothing_found):
        # 8: ambivalent. wipefs names both signatures, which is enough to refuse the disk.
        return None
    values = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    if values.get("TYPE") != "zfs_member":
        return None
    return PoolLabel(values.get("LABEL", ""), int(values.get("UUID", "0")))
