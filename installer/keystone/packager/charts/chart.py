"""Read and write Helm charts in memory: files, metadata, dependencies. Nothing is unpacked to disk.

The format: https://helm.sh/docs/topics/charts/. Charts are untrusted, so reading has limits: helm's
own limit for the unpacked size, regular files only, and no names outside the chart's folder.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from keystone.bundle.formats import compressed, foreign_tar
from keystone.errors import SourceError
from keystone.packager.charts import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PACKED = 20 << 20
"""Bytes of a packed chart. A release in etcd has at most 1 MiB; only CRDs make charts larger."""
MAX_UNPACKED = 100 << 20
"""Bytes, including all subcharts: helm's MaxDecompressedChartSize."""
MAX_FILES = 20_000
MAX_DEPTH = 8
HINT = "inspect the chart before using it: `helm package` does not write such a file"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"v?\d[0-9A-Za-z.+-]{0,127}")


@dataclass(frozen=True)
class Dependency:
    """A dependency in Chart.yaml.

    version: a constraint, "" for the newest release. repository: https://, oci:// (without the
    chart's name) or file://; in Chart.yaml, "" means that the chart is in charts/. alias: a name to
    use instead of the chart's own; with aliases, a chart can be included twice in two versions.
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
        """The content of Chart.yaml."""
        return self._mapping("Chart.yaml")

    @property
    def name(self) -> str:
        """The name in Chart.yaml."""
        return str(self.metadata["name"])

    @property
    def version(self) -> str:
        """The version in Chart.yaml: SemVer 2, possibly prefixed with v."""
        return str(self.metadata["version"])

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations in Chart.yaml. Raises SourceError."""
        found = self.metadata.get("annotations") or {}
        if not isinstance(found, dict):
            raise SourceError(
                f"chart {self.metadata.get('name')}: its annotations are not a mapping", hint=HINT
            )
        return {str(key): str(value) for key, value in found.items()}

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The content of values.yaml; empty without one."""
        return self._mapping("values.yaml") if "values.yaml" in self.files else {}

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """The dependencies, from Chart.yaml or, for apiVersion v1, from requirements.yaml."""
        return self._dependencies("requirements.yaml", "Chart.yaml")

    @property
    def locked(self) -> tuple[Dependency, ...]:
        """The dependencies with the versions in the chart's lock; empty without a lock."""
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
                f"chart {name}: dependencies in {source} are not a valid list: {error}",
                hint=HINT,
            ) from error

    def _mapping(self, name: str) -> Mapping[str, Any]:
        try:
            (value,) = references.load(self.files[name].decode()) or [{}]
        except (KeyError, ValueError) as error:
            raise SourceError(f"chart: cannot read {name}: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"chart: {name} is not a mapping")
        return value


def read(data: bytes) -> Chart:
    """Read a packed chart. Raises SourceError when it is invalid or exceeds the limits."""
    return _checked(Chart(_unpack(data, MAX_UNPACKED)))


def subcharts(chart: Chart) -> Iterator[tuple[str, Chart]]:
    """Yield all subcharts in charts/, packed or not, at any depth, with their paths.

    A path is "parent/charts/child", as helm writes it. Raises SourceError when a subchart is
    invalid or they exceed the limits.
    """
    budget = MAX_UNPACKED - sum(map(len, chart.files.values()))
    stack = [(chart.name, chart, 0)]
    while stack:
        path, parent, depth = stack.pop()
        for child, size in _children(parent, budget):
            budget -= size
            if depth == MAX_DEPTH:
                raise SourceError(f"chart {chart.name}: charts nested more than {MAX_DEPTH} deep")
            for name in _names(parent, child):
                where = f"{path}/charts/{name}"
                yield where, child
                stack.append((where, child, depth + 1))


def missing(chart: Chart) -> tuple[Dependency, ...]:
    """Return the dependencies that are not in charts/."""
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
    """Return the versions of a named dependency: several if it has aliases."""
    return {wanted.version for wanted in chart.dependencies if wanted.name == name}


def bare(chart: Chart) -> Chart:
    """Return the chart without dependencies, neither files nor entries, for `helm package`.

    helm packs each dependency into a folder with its name, so two versions would overwrite each
    other.
    """
    metadata = {key: value for key, value in chart.metadata.items() if key != "dependencies"}
    kept = {
        name: data
        for name, data in chart.files.items()
        if not name.startswith("charts/") and name not in {"requirements.yaml", "requirements.lock"}
    }
    return Chart({**kept, "Chart.yaml": json.dumps(metadata).encode()})


def _names(parent: Chart, child: Chart) -> list[str]:
    """Return helm's names for a subchart: its aliases in the parent, or its own name."""
    asked = [wanted for wanted in parent.dependencies if wanted.name == child.name]
    exact = [w for w in asked if w.version.removeprefix("v") == child.version.removeprefix("v")]
    names = dict.fromkeys(wanted.alias or wanted.name for wanted in exact or asked)
    return list(names) or [child.name]


def pack(chart: Chart) -> bytes:
    """Pack a chart: same files, same bytes (with the same zlib)."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(chart.files, key=lambda name: (name != "Chart.yaml", name)):
            entry = tarfile.TarInfo(f"{chart.name}/{name}")
            entry.size, entry.mode = len(chart.files[name]), 0o644
            archive.addfile(entry, io.BytesIO(chart.files[name]))
    return gzip.compress(plain.getvalue(), mtime=0)


def _children(chart: Chart, budget: int) -> Iterator[tuple[Chart, int]]:
    """Yield the direct subcharts and the unpacked size in bytes of each packed one, else 0."""
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
        raise SourceError(f"chart: {name!r} is not a valid name")
    if not (isinstance(version, str) and VERSION.fullmatch(version)):
        raise SourceError(f"chart {name}: {version!r} is not a valid version")
    return chart


def _unpack(data: bytes, limit: int) -> dict[str, bytes]:
    """Return the files of an archive: content by path below its single top folder."""
    try:
        plain = bytearray()
        for piece in compressed.gunzip([data]):
            plain += piece
            if len(plain) > limit:
                raise SourceError(f"chart: more than {limit} bytes unpacked")
        return dict(_members(bytes(plain)))
    except (EOFError, ValueError) as error:
        raise SourceError(f"chart: not an archive that can be read: {error}", hint=HINT) from error


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    # Not with tarfile, which expands sparse members to any size. `bundle verify` reads it the same.
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
            raise SourceError(f"chart: {entry.name!r} is not a file in the chart", hint=HINT)
        name = "/".join(path.parts[1:])
        tops.add(path.parts[0])
        if name in seen:
            raise SourceError(
                f"chart: {entry.name!r} is in the archive twice",
                hint="helm package writes two versions of one dependency into one folder: "
                "use the chart's source folder instead (file://)",
            )
        if not name or len(tops) > 1 or len(seen) == MAX_FILES:
            raise SourceError(
                f"chart: {entry.name!r} is outside the chart's folder, or one of more than "
                f"{MAX_FILES} files",
                hint=HINT,
            )
        seen.add(name)
        yield name, entry.content
