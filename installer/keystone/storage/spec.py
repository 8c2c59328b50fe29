"""The document that says what one host's storage shall be, and the datasets Keystone wants."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keystone.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GIB = 1024**3
LAYOUTS = {"single": 1, "mirror": 2}
"""Layout: how many disks it takes at least ("single" takes exactly one).

"directory" is not among them: it asks for no disks and no pool, so there is nothing to read here.
"""
PROPERTIES = ("recordsize", "logbias", "primarycache", "quota", "sync", "compression")
"""Properties that a dataset of a spec may have."""
RESERVED_NAMES = re.compile(r"(mirror|raidz|draid|spare|log|c[0-9]).*")
"""Names that zpool-create(8) refuses."""


@dataclass(frozen=True)
class Dataset:
    """A file system wanted. name: below the pool ("etcd"); properties: exact, as zfs -p shows."""

    name: str
    mountpoint: str
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


DATASETS = (
    # etcd appends 4 KiB pages and waits for each: small records, no detour by an aggregated log.
    Dataset("etcd", "/var/lib/etcd", MappingProxyType(
        {"recordsize": "16384", "logbias": "latency", "primarycache": "all",
         "quota": str(16 * GIB)})),
    Dataset("containerd", "/var/lib/containerd", MappingProxyType({"recordsize": "131072"})),
    # Blobs are written once and read in one go.
    Dataset("store", "/var/lib/keystone/store", MappingProxyType({"recordsize": "1048576"})),
    Dataset("volumes", "/var/lib/keystone/volumes", MappingProxyType({"recordsize": "131072"})),
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What one host's storage shall be: the JSON document of `keystone-install storage`."""

    pool: str
    layout: str
    ashift: int
    serials: tuple[str, ...]
    datasets: tuple[Dataset, ...] = DATASETS

    def to_json(self) -> dict[str, Any]:
        """The document that `parse_spec` reads."""
        return {
            "pool": self.pool, "layout": self.layout, "ashift": self.ashift,
            "serials": list(self.serials),
            "datasets": [
                {"name": d.name, "mountpoint": d.mountpoint, "properties": dict(d.properties)}
                for d in self.datasets
            ],
        }  # fmt: skip


def parse_spec(document: object) -> Spec:
    """A Spec from decoded JSON. Raises ConfigurationError with all mistakes at once."""
    if not isinstance(document, dict):
        raise ConfigurationError("storage spec: a JSON object is expected")
    mistakes = list(_mistakes(document))
    if mistakes:
        raise ConfigurationError(
            f"storage spec: {len(mistakes)} mistake(s): {'; '.join(map(str, mistakes))}",
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
        yield Mistake("pool", f"{pool!r} is no pool name", "letters, digits, _ . -")
    elif RESERVED_NAMES.fullmatch(pool):
        yield Mistake("pool", f"{pool!r} is reserved by ZFS", "take another name")
    layout, serials = document.get("layout"), document.get("serials")
    if layout not in LAYOUTS:
        yield Mistake("layout", f"{layout!r} is not known", f"one of {', '.join(LAYOUTS)}")
    if document.get("ashift") not in range(9, 17):
        yield Mistake("ashift", f"{document.get('ashift')!r} is not 9 to 16", "12: 4 KiB sectors")
    if not isinstance(serials, list) or not all(isinstance(s, str) and s for s in serials):
        yield Mistake("serials", "a list of serial numbers is expected")
    elif len(set(serials)) != len(serials):
        yield Mistake("serials", "one disk is named twice")
    elif layout in LAYOUTS and (
        len(serials) < LAYOUTS[layout] or (layout == "single" and len(serials) > 1)
    ):
        yield Mistake("serials", f"{len(serials)} disk(s) do not make layout {layout}")
    for number, entry in enumerate(document.get("datasets", [])):
        yield from _dataset_mistakes(f"datasets[{number}]", entry)


def _dataset_mistakes(where: str, entry: object) -> Iterator[Mistake]:
    if not isinstance(entry, dict) or not {"name", "mountpoint"} <= set(entry):
        yield Mistake(where, "name and mountpoint are required")
        return
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", str(entry["name"])):
        yield Mistake(f"{where}.name", f"{entry['name']!r} is no dataset name")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(entry["mountpoint"])):
        yield Mistake(f"{where}.mountpoint", f"{entry['mountpoint']!r} is no absolute path")
    properties = entry.get("properties", {})
    for key, value in properties.items() if isinstance(properties, dict) else ():
        if key not in PROPERTIES or not isinstance(value, str):
            yield Mistake(f"{where}.properties.{key}", "unknown, or its value is not text")
