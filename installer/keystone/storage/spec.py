"""The storage spec of one host, and the datasets that Keystone needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GIB = 1024**3
LAYOUTS = {"single": 1, "mirror": 2}
"""Least number of disks of each layout ("single" needs exactly one).

Layout "directory" is not listed: it has no disks and no pool, so it has no spec.
"""
PROPERTIES = ("recordsize", "logbias", "primarycache", "quota", "sync", "compression")
"""Properties that a dataset of a spec may have."""
RESERVED_NAMES = re.compile(r"(mirror|raidz|draid|spare|log|c[0-9]).*")
"""Names that zpool-create(8) refuses."""


@dataclass(frozen=True)
class Dataset:
    """A wanted file system. name: inside the pool ("etcd"). properties: values as in zfs get -p."""

    name: str
    mountpoint: str
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


DATASETS = (
    # etcd appends 4 KiB pages and waits for each: small records, and latency before throughput.
    Dataset("etcd", "/var/lib/etcd", MappingProxyType(
        {"recordsize": "16384", "logbias": "latency", "primarycache": "all",
         "quota": str(16 * GIB)})),
    Dataset("containerd", "/var/lib/containerd", MappingProxyType({"recordsize": "131072"})),
    # Blobs are written once and read from start to end.
    Dataset("store", "/var/lib/keystone/store", MappingProxyType({"recordsize": "1048576"})),
    # Beside etcd's own, so that its quota is not theirs.
    Dataset("snapshots", "/var/lib/keystone/snapshots", MappingProxyType(
        {"recordsize": "1048576"})),
    Dataset("volumes", "/var/lib/keystone/volumes", MappingProxyType({"recordsize": "131072"})),
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """The wanted storage of one host: the JSON document of `keystone-install storage`."""

    pool: str
    layout: str
    ashift: int
    serials: tuple[str, ...]
    datasets: tuple[Dataset, ...] = DATASETS

    def to_json(self) -> dict[str, Any]:
        """Return the document that `parse_spec` reads."""
        return {
            "pool": self.pool, "layout": self.layout, "ashift": self.ashift,
            "serials": list(self.serials),
            "datasets": [
                {"name": d.name, "mountpoint": d.mountpoint, "properties": dict(d.properties)}
                for d in self.datasets
            ],
        }  # fmt: skip


def parse_spec(document: object) -> Spec:
    """Parse a spec from decoded JSON. Raises ConfigurationError with all mistakes at once."""
    if not isinstance(document, dict):
        raise ConfigurationError("storage spec: not a JSON object")
    mistakes = list(_mistakes(document))
    if mistakes:
        count = log.count(len(mistakes), "mistake")
        raise ConfigurationError(
            f"storage spec: {count}: {'; '.join(map(str, mistakes))}",
            mistakes=mistakes,
        )
    datasets = tuple(
        Dataset(d["name"], d["mountpoint"], MappingProxyType(dict(d.get("properties", {}))))
        for d in document.get("datasets", [])
    )
    return Spec(
        document["pool"], document["layout"], document["ashift"], tuple(document["serials"]),
        datasets if "datasets" in document else DATASETS,
    )  # fmt: skip


def _mistakes(document: Mapping[str, Any]) -> Iterator[Mistake]:
    known = {"pool", "layout", "ashift", "serials", "datasets"}
    for key in sorted(set(document) - known):
        yield Mistake(key, "unknown key", f"known: {', '.join(sorted(known))}")
    pool = document.get("pool")
    if not isinstance(pool, str) or not re.fullmatch(r"[a-z][a-z0-9_.-]{0,63}", pool):
        yield Mistake("pool", f"{pool!r} is not a valid pool name", "a letter, then a-z 0-9 _ . -")
    elif RESERVED_NAMES.fullmatch(pool):
        yield Mistake("pool", f"{pool!r} is reserved by ZFS", "choose another name")
    layout, serials = document.get("layout"), document.get("serials")
    if layout not in LAYOUTS:
        yield Mistake("layout", f"{layout!r} is unknown", f"one of {', '.join(LAYOUTS)}")
    if document.get("ashift") not in range(9, 17):
        yield Mistake("ashift", f"{document.get('ashift')!r} is not 9 to 16", "12: 4 KiB sectors")
    if not isinstance(serials, list) or not all(isinstance(s, str) and s for s in serials):
        yield Mistake("serials", "must be a list of serial numbers")
    elif len(set(serials)) != len(serials):
        yield Mistake("serials", "a disk is listed twice")
    elif layout in LAYOUTS and (
        len(serials) < LAYOUTS[layout] or (layout == "single" and len(serials) > 1)
    ):
        least = "exactly 1" if layout == "single" else f"at least {LAYOUTS[layout]}"
        count = log.count(len(serials), "disk")
        yield Mistake("serials", f"{count} for layout {layout}", f"list {least}")
    for number, entry in enumerate(document.get("datasets", [])):
        yield from _dataset_mistakes(f"datasets[{number}]", entry)


def _dataset_mistakes(where: str, entry: object) -> Iterator[Mistake]:
    if not isinstance(entry, dict) or not {"name", "mountpoint"} <= set(entry):
        yield Mistake(where, "name and mountpoint are required")
        return
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", str(entry["name"])):
        yield Mistake(f"{where}.name", f"{entry['name']!r} is not a valid dataset name")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(entry["mountpoint"])):
        yield Mistake(f"{where}.mountpoint", f"{entry['mountpoint']!r} is not an absolute path")
    properties = entry.get("properties", {})
    for key, value in properties.items() if isinstance(properties, dict) else ():
        if key not in PROPERTIES or not isinstance(value, str):
            yield Mistake(f"{where}.properties.{key}", "unknown property, or its value is not text")
