"""Fetch charts with their dependencies from Helm repositories, registries and folders.

A repository is an index.yaml and archives over HTTP (https://helm.sh/docs/topics/chart_repository);
in a registry a chart is an OCI artifact (https://helm.sh/docs/topics/registries). helm decides
which version satisfies a constraint; this module downloads the chart and hashes it.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from keystone import run
from keystone.bundle.model import Digest
from keystone.errors import SourceError, StatusError, UntrustedBundleError
from keystone.packager import foreign_json
from keystone.packager.charts import chart as charts
from keystone.packager.charts import references
from keystone.packager.charts.chart import Chart, Dependency
from keystone.packager.sources import oci
from keystone.packager.sources.oci import Reference, Remote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.packager.charts.helm import Helm
    from keystone.packager.sources.oci import ResolvedImage
    from keystone.packager.sources.upstream import Sources

CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
PROVENANCE = "application/vnd.cncf.helm.chart.provenance.v1.prov"
CHARTS_PARTS = ("charts/", "Chart.yaml", "requirements.")
MAX_INDEX = 128 << 20
MAX_PROVENANCE = 1 << 20
MAX_TAG_PAGES = 1000


@dataclass(frozen=True)
class Fetched:
    """A chart that contains its dependencies.

    data: the archive. origin: where to fetch it again: the archive's URL, "oci://...:tag", or "" if
    it was packed here. upstream: its manifest and blobs in a registry, None if it is not from one.
    provenance: its .prov file, b"" without one.
    """

    chart: Chart
    data: bytes
    origin: str
    upstream: ResolvedImage | None = None
    provenance: bytes = b""


@dataclass
class Charts:
    """Fetches charts. It reads each repository's index once."""

    helm: Helm
    sources: Sources
    _indexes: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def get(self, wanted: Dependency, folder: Path | None, *, prove: bool = False) -> Fetched:
        """Fetch a chart with its dependencies.

        folder: file:// paths are relative to it; None to refuse them. prove: also fetch its
        provenance. Raises SourceError when the chart or a dependency cannot be fetched.
        """
        return self._get(wanted, folder, charts.MAX_DEPTH, prove=prove)

    def verify(self, fetched: Fetched, keyring: Path) -> str:
        """Return the fingerprint of the key that signed a chart.

        Raises UntrustedBundleError unless a key of the keyring signed it.
        """
        hint = f"a key in {keyring} must have signed it"
        if not fetched.provenance:
            raise UntrustedBundleError(f"{fetched.origin}: has no provenance", hint=hint)
        name = f"{fetched.chart.name}-{fetched.chart.version}.tgz"
        with tempfile.TemporaryDirectory(dir=self.helm.scratch) as scratch:
            packed = Path(scratch) / name
            packed.write_bytes(fetched.data)
            Path(f"{packed}.prov").write_bytes(fetched.provenance)
            try:
                return self.helm.verify(packed, keyring)
            except run.CommandError as error:
                raise UntrustedBundleError(
                    f"{fetched.origin}: its provenance does not verify: {error.message}", hint=hint
                ) from error

    def _get(self, wanted: Dependency, folder: Path | None, depth: int, *, prove: bool) -> Fetched:
        if depth == 0:
            raise SourceError(f"chart {wanted.name}: its dependencies are nested too deep")
        scheme, _, rest = wanted.repository.partition("://")
        if scheme == "file":
            return self._folder(wanted, _local_folder(folder, rest, wanted), depth)
        if scheme == "oci":
            found = self._registry(wanted)
        elif scheme in {"http", "https"}:
            found = self._repository(wanted, prove=prove)
        else:
            raise SourceError(
                f"chart {wanted.name}: {wanted.repository!r} is not a repository",
                hint="use https://, oci:// or file://; names of `helm repo add` are not supported",
            )
        if charts.missing(found.chart):
            return self._complete(found.chart, None, depth)
        return found

    def _repository(self, wanted: Dependency, *, prove: bool) -> Fetched:
        repository = wanted.repository.rstrip("/")
        listed = _versions(self._index(repository).get(wanted.name))
        usable = {version: entry for version, entry in listed.items() if _url(entry)}
        if wanted.version in listed.keys() - usable.keys():
            raise SourceError(
                f"{repository}: chart {wanted.name} {wanted.version} has no URL in the index",
                hint="report it to the repository's maintainers; until then use another version",
            )
        version = self._choose(wanted, list(usable))
        entry = usable[version]
        url = urljoin(f"{repository}/", _url(entry))
        named = str(entry.get("digest") or "").removeprefix("sha256:")
        if url.startswith("oci://"):
            found = self._pull(_reference(url))
        else:
            data = self.sources.read(url, limit=charts.MAX_PACKED, digest=_digest(url, named))
            proof = self._provenance(url) if prove else b""
            found = Fetched(charts.read(data), data, url, provenance=proof)
        return _require_named(found, wanted.name, version)

    def _provenance(self, url: str) -> bytes:
        try:
            return self.sources.read(f"{url}.prov", limit=MAX_PROVENANCE)
        except StatusError as error:
            if error.status == oci.NOT_FOUND:
                return b""
            raise

    def _index(self, repository: str) -> Mapping[str, Any]:
        if repository not in self._indexes:
            url = f"{repository}/index.yaml"
            text = self.sources.read(url, limit=MAX_INDEX)
            try:
                entries = _parse_index(text)["entries"] or {}
                if not isinstance(entries, dict):
                    raise TypeError("entries is not a mapping")
            except (*foreign_json.WRONG, RecursionError) as error:
                raise SourceError(f"{url}: not the index of a Helm repository: {error}") from error
            self._indexes[repository] = entries
        return self._indexes[repository]

    def _registry(self, wanted: Dependency) -> Fetched:
        host, _, path = wanted.repository.removeprefix("oci://").strip("/").partition("/")
        reference = Reference(host, "/".join(filter(None, (path, wanted.name))), "")
        version = wanted.version
        if not re.fullmatch(r"v?\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?", version):
            version = self._choose(wanted, [tag.replace("_", "+") for tag in self._tags(reference)])
        found = self._pull(replace(reference, tag=version.replace("+", "_")))
        return _require_named(found, wanted.name, version)

    def _tags(self, reference: Reference) -> list[str]:
        """List all tags of a repository, over all pages (distribution-spec, "Listing Tags").

        The Link header gives the next page; for registries without it, use the last tag.
        """
        base = f"{self.sources.registry(reference.host, reference.repository)}/tags/list"
        url, linked = f"{base}?n=1000", False
        tags: dict[str, None] = {}
        for _ in range(MAX_TAG_PAGES):
            data, link = self.sources.page(url, limit=MAX_INDEX)
            new = dict.fromkeys(_parse_tags(url, data))
            following = oci.next_page(url, link)
            if not following and (linked or new.keys() <= tags.keys()):
                return [*tags, *(tag for tag in new if tag not in tags)]
            tags |= new
            linked = bool(following)
            url = following or f"{base}?n=1000&last={quote(list(tags)[-1])}"
        raise SourceError(f"{base}: more than {MAX_TAG_PAGES} pages of tags")

    def _pull(self, reference: Reference) -> Fetched:
        origin = f"oci://{reference.name}:{reference.tag}"
        repository = Remote(self.sources, reference)
        resolved = oci.resolve_in(repository, frozenset())
        layers = {blob.media_type: blob for blob in resolved.blobs}
        if CONTENT not in layers:
            raise SourceError(f"{origin}: not a Helm chart")
        data = repository.blob(layers[CONTENT], charts.MAX_PACKED)
        proof = layers.get(PROVENANCE)
        return Fetched(
            charts.read(data), data, origin, resolved,
            repository.blob(proof, MAX_PROVENANCE) if proof else b"",
        )  # fmt: skip

    def _folder(self, wanted: Dependency, path: Path, depth: int) -> Fetched:
        files: dict[str, bytes] = {}
        left = charts.MAX_UNPACKED
        for file in sorted(path.rglob("*")):
            if file.is_file():
                left -= file.stat().st_size
                if left < 0 or len(files) == charts.MAX_FILES:
                    raise SourceError(
                        f"{path}: too large for a chart (at most {charts.MAX_FILES} files, "
                        f"{charts.MAX_UNPACKED} bytes)"
                    )
                files[str(file.relative_to(path))] = file.read_bytes()
        if "Chart.yaml" not in files:
            raise SourceError(f"{path}: not a chart: there is no Chart.yaml")
        found = self._complete(Chart(files), path, depth)
        if found.chart.name != wanted.name:
            raise SourceError(f"{path}: this is chart {found.chart.name}, not {wanted.name}")
        if wanted.version:
            self._choose(wanted, [found.chart.version])
        return found

    def _complete(self, chart: Chart, folder: Path | None, depth: int) -> Fetched:
        """Pack a chart with its dependencies as helm does, reproducibly."""
        files = dict(chart.files)
        for dependency in charts.missing(chart):
            if not dependency.repository:
                raise SourceError(f"chart {chart.name}: charts/{dependency.name} does not exist")
            inner = self._get(self._pinned(chart, dependency), folder, depth - 1, prove=False)
            files[f"charts/{inner.chart.name}-{inner.chart.version}.tgz"] = inner.data
        whole = Chart(files)
        twice = any(len(charts.versions(whole, one.name)) > 1 for one in whole.dependencies)
        try:
            packed = charts.read(self._packed(charts.bare(whole) if twice else whole))
        except run.CommandError as error:
            raise SourceError(f"chart {folder or chart.name}: {error.message}") from error
        if twice:
            apart = {name: data for name, data in files.items() if name.startswith(CHARTS_PARTS)}
            packed = Chart({**packed.files, **apart})
        return Fetched(packed, charts.pack(packed), "")

    def _packed(self, chart: Chart) -> bytes:
        with tempfile.TemporaryDirectory(dir=self.helm.scratch) as scratch:
            for name, data in chart.files.items():
                (Path(scratch) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / name).write_bytes(data)
            return self.helm.package(Path(scratch))

    def _pinned(self, chart: Chart, dependency: Dependency) -> Dependency:
        """Return a dependency at its version in Chart.lock.

        Raises SourceError when Chart.lock does not fit Chart.yaml.
        """
        if not chart.locked:
            return dependency
        for locked in chart.locked:
            same = (locked.name, locked.repository) == (dependency.name, dependency.repository)
            if same and self.helm.choose(dependency.version, [locked.version]):
                return locked
        raise SourceError(
            f"chart {chart.name}: Chart.lock has no {dependency.name} {dependency.version} from "
            f"{dependency.repository}, which Chart.yaml requires",
            hint="update the lock: helm dependency update",
        )

    def _choose(self, wanted: Dependency, versions: list[str]) -> str:
        version = self.helm.choose(wanted.version, versions)
        if version is None:
            some = ", ".join(versions[:10]) or "none"
            raise SourceError(
                f"{wanted.repository}: no chart {wanted.name} {wanted.version}".rstrip(),
                hint=f"versions there: {some}",
            )
        return version


def _versions(entries: object) -> dict[str, Mapping[str, Any]]:
    """Return the index entries of one chart by version; like helm, skip invalid ones."""
    valid = [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and charts.VERSION.fullmatch(str(entry.get("version")))
    ]
    return {str(entry["version"]): entry for entry in reversed(valid)}


def _url(entry: Mapping[str, Any]) -> str:
    """Return the first usable URL of an index entry; "" without one."""
    urls = entry.get("urls")
    for url in urls if isinstance(urls, list) else []:
        if isinstance(url, str) and re.match(r"(https?|oci)://[^/]|(?![a-z]+:)[^\s/]|/", url):
            return url
    return ""


def _reference(url: str) -> Reference:
    """Parse "oci://host/repository:tag". Raises SourceError."""
    try:
        return Reference.parse(url.removeprefix("oci://"))
    except ValueError as error:
        raise SourceError(f"{url}: the repository's index: {error}") from error


def _parse_tags(url: str, data: bytes) -> list[str]:
    """Parse one page of tags. Raises SourceError."""
    try:
        found = foreign_json.loads(data)["tags"] or []
        if not all(isinstance(tag, str) for tag in found):
            raise TypeError("a tag is not a string")
    except foreign_json.WRONG as error:
        raise SourceError(f"{url}: not a list of tags: {error}") from error
    return list(found)


def _digest(url: str, digest: str) -> Digest | None:
    try:
        return Digest(digest) if digest else None
    except ValueError as error:
        raise SourceError(f"{url}: the repository's index: {error}") from error


def _local_folder(folder: Path | None, path: str, wanted: Dependency) -> Path:
    if folder is None:
        raise SourceError(
            f"chart {wanted.name}: its repository file://{path} exists only on its author's machine"
        )
    return (folder / path).resolve()


def _require_named(found: Fetched, name: str, version: str) -> Fetched:
    """Require name and version in Chart.yaml to be those of the index. Raises SourceError."""
    chart = found.chart
    if (chart.name, chart.version.removeprefix("v")) != (name, version.removeprefix("v")):
        raise SourceError(
            f"{found.origin}: contains chart {chart.name} {chart.version}, not {name} {version}"
        )
    return found


def _parse_index(data: bytes) -> Mapping[str, Any]:
    text = data.decode()
    value = foreign_json.loads(text) if text.lstrip().startswith("{") else references.load(text)[0]
    return dict(value)


def digest_of(data: bytes) -> Digest:
    """Return the SHA-256 of bytes."""
    return Digest(hashlib.sha256(data).hexdigest())
