"""Helm charts as data: what is in the archive, and what it depends on. Nothing is unpacked to disk.

The format: https://helm.sh/docs/topics/charts/. A chart comes from strangers, so it is read within
limits: helm's own for its size unpacked, regular files only, no name that leaves its folder.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from keystone.bundle.formats import foreign_tar
from keystone.errors import SourceError
from keystone.packager.charts import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PACKED = 20 << 20
"""Bytes of a packed chart. etcd takes 1 MiB of it at an installation; only CRDs make one large."""
MAX_UNPACKED = 100 << 20
"""Bytes with all its subcharts; helm's MaxDecompressedChartSize."""
MAX_FILES = 20_000
MAX_DEPTH = 8
LOOK = "look at the chart before you use it; `helm package` makes none like this"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"v?\d[0-9A-Za-z.+-]{0,127}")


@dataclass(frozen=True)
class Dependency:
    """A chart as Chart.yaml asks for one.

    version: a constraint, "" for the newest release. repository: https://, oci:// (without the
    chart's name) or file://; "" in a Chart.yaml means that the chart lies in charts/. alias: what
    it is called instead of its name; with aliases one chart may be there twice, in two versions.
    """

    name: str
    version: str
    repository: str
    alias: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart in memory. files: content by path below the chart's folder."""

    files: Mapping[str, bytes]

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Chart.yaml."""
        return self._mapping("Chart.yaml")

    @property
    def name(self) -> str:
        """As Chart.yaml says it."""
        return str(self.metadata["name"])

    @property
    def version(self) -> str:
        """As Chart.yaml says it; SemVer 2, a v may stand before it."""
        return str(self.metadata["version"])

    @property
    def annotations(self) -> Mapping[str, str]:
        """Of Chart.yaml."""
        found = self.metadata.get("annotations") or {}
        if not isinstance(found, dict):
            raise SourceError(
                f"chart {self.metadata.get('name')}: its annotations are no mapping", hint=LOOK
            )
        return {str(key): str(value) for key, value in found.items()}

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """values.yaml, empty without one."""
        return self._mapping("values.yaml") if "values.yaml" in self.files else {}

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """What it is built of; requirements.yaml is where the first chart format says it."""
        return self._dependencies("requirements.yaml", "Chart.yaml")

    @property
    def locked(self) -> tuple[Dependency, ...]:
        """The dependencies with the versions that its author took, empty without a lock."""
        return self._dependencies("requirements.lock", "Chart.lock")

    def _dependencies(self, old: str, new: str) -> tuple[Dependency, ...]:
        source = old if old in self.files else new
        entries = self._mapping(source).get("dependencies") if source in self.files else ()
        try:
            return tuple(
                Dependency(
                    str(e["name"]), str(e.get("version", "")), str(e.get("repository", "")),
                    str(e.get("alias") or ""),
                )
                for e in entries or ()
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            name = self.metadata.get("name")
            raise SourceError(
                f"chart {name}: dependencies in {source} that are no list of names: {error}",
                hint=LOOK,
            ) from error

    def _mapping(self, name: str) -> Mapping[str, Any]:
        try:
            (value,) = references.load(self.files[name].decode()) or [{}]
        except (KeyError, ValueError) as error:
            raise SourceError(f"chart: no readable {name}: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"chart: {name} is no mapping")
        return value


def read(data: bytes) -> Chart:
    """A packed chart. Raises SourceError when it is none, or over the limits."""
    return _checked(Chart(_unpack(data, MAX_UNPACKED)))


def subcharts(chart: Chart) -> Iterator[tuple[str, Chart]]:
    """Everything in charts/, packed or not, at any depth, with its path as helm writes it.

    A path is "parent/charts/child". Raises SourceError when one is broken or all are too much.
    """
    budget = MAX_UNPACKED - sum(map(len, chart.files.values()))
    stack = [(chart.name, chart, 0)]
    while stack:
        path, parent, depth = stack.pop()
        for child, size in _children(parent, budget):
            budget -= size
            if depth == MAX_DEPTH:
                raise SourceError(f"chart {chart.name}: more than {MAX_DEPTH} charts in each other")
            for name in _called(parent, child):
                where = f"{path}/charts/{name}"
                yield where, child
                stack.append((where, child, depth + 1))


def missing(chart: Chart) -> tuple[Dependency, ...]:
    """The dependencies that are not in charts/."""
    there: dict[str, set[str]] = {}
    for child, _ in _children(chart, MAX_UNPACKED):
        there.setdefault(child.name, set()).add(child.version.removeprefix("v"))
    return tuple(
        wanted
        for wanted in chart.dependencies
        if wanted.version.removeprefix("v") not in there.get(wanted.name, ())
        and len(there.get(wanted.name, ())) < len(versions(chart, wanted.name))
    )


def versions(chart: Chart, name: str) -> set[str]:
    """The versions in which it depends on the chart of this name: several, under aliases."""
    return {wanted.version for wanted in chart.dependencies if wanted.name == name}


def bare(chart: Chart) -> Chart:
    """Without its dependencies, and not asking for any: for `helm package`.

    helm packs each of them as a folder by its name, and so one of two versions over the other.
    """
    metadata = {key: value for key, value in chart.metadata.items() if key != "dependencies"}
    kept = {
        name: data
        for name, data in chart.files.items()
        if not name.startswith("charts/") and name not in {"requirements.yaml", "requirements.lock"}
    }
    return Chart({**kept, "Chart.yaml": json.dumps(metadata).encode()})


def _called(parent: Chart, child: Chart) -> list[str]:
    """What helm calls a chart inside another one: its aliases there, or its name."""
    asked = [wanted for wanted in parent.dependencies if wanted.name == child.name]
    exact = [w for w in asked if w.version.removeprefix("v") == child.version.removeprefix("v")]
    names = dict.fromkeys(wanted.alias or wanted.name for wanted in exact or asked)
    return list(names) or [child.name]


def pack(chart: Chart) -> bytes:
    """The archive: same files, same bytes (with the same zlib)."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(chart.files, key=lambda name: (name != "Chart.yaml", name)):
            entry = tarfile.TarInfo(f"{chart.name}/{name}")
            entry.size, entry.mode = len(chart.files[name]), 0o644
            archive.addfile(entry, io.BytesIO(chart.files[name]))
    return gzip.compress(plain.getvalue(), mtime=0)


def _children(chart: Chart, budget: int) -> Iterator[tuple[Chart, int]]:
    """Direct subcharts; the size is what unpacking a packed one added."""
    folders: dict[str, dict[str, bytes]] = {}
    for name, data in sorted(chart.files.items()):
        top, *rest = name.split("/")
        if top != "charts" or not rest or rest[0].startswith(("_", ".")):
            continue
        if len(rest) == 1 and name.endswith((".tgz", ".tar.gz")):
            files = _unpack(data, budget)
            size = sum(map(len, files.values()))
            budget -= size
            yield _checked(Chart(files)), size
        elif len(rest) > 1:
            folders.setdefault(rest[0], {})["/".join(rest[1:])] = data
    for files in folders.values():
        if "Chart.yaml" in files:
            yield _checked(Chart(files)), 0


def _checked(chart: Chart) -> Chart:
    name, version = chart.metadata.get("name"), chart.metadata.get("version")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise SourceError(f"chart: {name!r} is no name for a chart")
    if not (isinstance(version, str) and VERSION.fullmatch(version)):
        raise SourceError(f"chart {name}: {version!r} is no version")
    return chart


def _unpack(data: bytes, limit: int) -> dict[str, bytes]:
    """Names below the one top folder, and contents."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            plain = packed.read(limit + 1)
        if len(plain) > limit:
            raise SourceError(f"chart: more than {limit} bytes unpacked")
        return dict(_members(plain))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(f"chart: not an archive that can be read: {error}", hint=LOOK) from error


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    # Not by tarfile, which expands sparse members to any size: as `bundle verify` reads it.
    parts = foreign_tar.plain(lambda at, count: archive[at : at + count], len(archive))
    limits = foreign_tar.Limits(len(archive), len(archive), 2 * MAX_FILES)
    tops: set[str] = set()
    seen: set[str] = set()
    for entry in foreign_tar.entries(parts, limits, keep=None):
        if entry.kind == "directory":
            continue
        path = PurePosixPath(entry.name)
        if (
            entry.kind != "file" or not path.parts or path.is_absolute() or ".." in path.parts
            or "\\" in entry.name
        ):  # fmt: skip
            raise SourceError(f"chart: {entry.name!r} is no file inside the chart", hint=LOOK)
        name = "/".join(path.parts[1:])
        tops.add(path.parts[0])
        if name in seen:
            raise SourceError(
                f"chart: {entry.name!r} is there twice",
                hint="helm package writes two versions of one dependency into one folder: "
                "take the chart from its source (file://)",
            )
        if not name or len(tops) > 1 or len(seen) == MAX_FILES:
            raise SourceError(f"chart: {entry.name!r} is outside, or one too many", hint=LOOK)
        seen.add(name)
        yield name, entry.content
