"""The bundle definition, which people write: what a bundle carries, by upstream name."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from keystone import documents, log
from keystone.errors import ConfigurationError, Mistake
from keystone.packager.charts.chart import Dependency
from keystone.packager.charts.image_names import ImageName, spellings
from keystone.packager.sources.apt import KEYRING, Archive
from keystone.packager.sources.oci import Reference
from keystone.packager.sources.wheels import Wheels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

COMPONENTS = ("main", "contrib")
VALID_DAYS = 730


@dataclass(frozen=True)
class Image:
    """An image by its upstream reference.

    layout: an OCI layout or docker archive that holds the image; None to fetch it from the
    registry. architectures: empty for those of the bundle. attachments: whether the bundle carries
    the image's signatures, SBOMs and attestations. why: which charts need the image, "" for none.
    """

    reference: Reference
    group: str
    layout: Path | None = None
    architectures: tuple[str, ...] = ()
    attachments: bool = True
    why: str = ""


@dataclass(frozen=True)
class SignaturePolicy:
    """Images (patterns of host/repository) that must be signed by one of the keys (PEM files)."""

    images: tuple[str, ...]
    keys: tuple[Path, ...]

    def covers(self, name: str) -> bool:
        """Whether the policy applies to an image, under any of its spellings for Docker Hub."""
        return any(
            fnmatchcase(each, pattern) for each in spellings(name) for pattern in self.images
        )


@dataclass(frozen=True)
class RuntimeImage:
    """An image that a running operator starts, unknown to its chart. because: when it does so."""

    reference: str
    because: str


@dataclass(frozen=True)
class ExcludedImage:
    """An image that a chart names but the bundle leaves out.

    image: host/repository:tag, where * matches anything. because: the reason.
    """

    image: str
    because: str


@dataclass(frozen=True)
class Chart:
    """A chart, how to install it, and which images rendering it does not reveal.

    source: a folder's `repository` is an absolute path. values (YAML as helm reads it, "" for none)
    override values_files; later files override earlier ones. keyring: None to accept the chart
    without provenance.
    """

    source: Dependency
    group: str
    release: str
    namespace: str
    values: str
    values_files: tuple[Path, ...]
    api_versions: tuple[str, ...]
    keyring: Path | None
    runtime_images: tuple[RuntimeImage, ...]
    exclude_images: tuple[ExcludedImage, ...]


@dataclass(frozen=True)
class Debs:
    """Packages of one Debian suite, by group.

    sources: empty for the archives that this machine's apt uses. architectures: empty for those of
    the bundle.
    """

    suite: str
    groups: Mapping[str, tuple[str, ...]]
    components: tuple[str, ...] = COMPONENTS
    sources: tuple[Archive, ...] = ()
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelModules:
    """Kernel modules to build as packages. kernels: release names, or "current"."""

    name: str
    suite: str
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """A file as upstream publishes it. sha256: "" to get it from upstream when locking."""

    name: str
    version: str
    url: str
    sha256: str
    group: str


@dataclass(frozen=True)
class File:
    """A local file or folder of the packager's. path: absolute."""

    name: str
    version: str
    path: Path
    group: str


@dataclass(frozen=True)
class Definition:
    """The content of one bundle definition file."""

    name: str
    number: int
    architectures: tuple[str, ...]
    valid_days: int
    images: tuple[Image, ...]
    charts: tuple[Chart, ...]
    kube_version: str
    debs: tuple[Debs, ...]
    modules: tuple[KernelModules, ...]
    binaries: tuple[Binary, ...]
    files: tuple[File, ...]
    installer: bool
    mirrors: Mapping[str, str]
    wheels: tuple[Wheels, ...] = ()
    signatures: tuple[SignaturePolicy, ...] = ()
    ca_file: Path | None = None
    token_servers: Mapping[str, str] = field(default_factory=dict)


def load(path: Path) -> Definition:
    """Read a definition. Raises ConfigurationError that lists all mistakes."""
    schema = documents.packaged_schema("bundle")
    document = documents.load(path, kind="BundleDefinition", schema=schema)
    spec = document.spec
    images, mistakes = [], []
    for index, value in enumerate(spec.get("images", [])):
        try:
            images.append(_image(value, path.parent))
        except ValueError as error:
            mistakes.append(Mistake(document.where("spec", "images", index, "ref"), str(error)))
    mistakes += [
        Mistake(document.where("spec", *place), f"there is no file {path.parent / name}")
        for place, name in _named_files(spec)
        if not (path.parent / name).exists()
    ]
    charts = []
    for index, value in enumerate(spec.get("charts", [])):
        charts.append(_chart(value, path.parent, _values(document, index, value.get("values"))))
        mistakes += _chart_mistakes(document, index, charts[-1])
    if mistakes:
        count = log.count(len(mistakes), "mistake")
        raise ConfigurationError(f"{path}: {count}", mistakes=mistakes)
    return Definition(
        name=document.name,
        number=spec["number"],
        architectures=tuple(spec["architectures"]),
        valid_days=spec.get("validDays", VALID_DAYS),
        images=tuple(images),
        charts=tuple(charts),
        kube_version=spec.get("kubeVersion", ""),
        debs=tuple(_debs(value, path.parent) for value in spec.get("debs", [])),
        modules=tuple(_modules(value) for value in spec.get("kernelModules", [])),
        binaries=tuple(_binary(value) for value in spec.get("binaries", [])),
        files=tuple(_file(value, path.parent) for value in spec.get("files", [])),
        installer=spec.get("installer", True),
        mirrors=dict(spec.get("mirrors", {})),
        wheels=tuple(_wheels(value) for value in spec.get("wheels", [])),
        signatures=tuple(_policy(value, path.parent) for value in spec.get("signatures", [])),
        ca_file=(path.parent / spec["caFile"]).resolve() if "caFile" in spec else None,
        token_servers=dict(spec.get("tokenServers", {})),
    )


def beside(lock: Path) -> Definition | None:
    """The definition of a lock (x.lock.json): x.yaml or x.yml beside it; None without one."""
    for ending in (".yaml", ".yml"):
        path = lock.with_name(lock.name.removesuffix(".lock.json") + ending)
        if lock.name.endswith(".lock.json") and path.is_file():
            return load(path)
    return None


def load_mirrors(path: Path | None) -> dict[str, str]:
    """Read a mirrors file: upstream address to mirror address; empty when `path` is None."""
    if path is None:
        return {}
    document = documents.load(path, kind="Mirrors", schema=documents.packaged_schema("mirrors"))
    return dict(document.spec["mirrors"])


def _named_files(spec: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every file that a definition names, with the position of its key in the document."""
    for index, value in enumerate(spec.get("files", [])):
        yield ("files", index, "path"), value["path"]
    for index, value in enumerate(spec.get("images", [])):
        if "from" in value:
            yield ("images", index, "from"), value["from"]
    for index, value in enumerate(spec.get("signatures", [])):
        for number, name in enumerate(value["keys"]):
            yield ("signatures", index, "keys", number), name
    for index, value in enumerate(spec.get("debs", [])):
        for number, source in enumerate(value.get("sources", [])):
            if "signedBy" in source:
                yield ("debs", index, "sources", number, "signedBy"), source["signedBy"]
    if "caFile" in spec:
        yield ("caFile",), spec["caFile"]


def _image(value: Mapping[str, Any], folder: Path) -> Image:
    return Image(
        Reference.parse(value["ref"]),
        value.get("group", ""),
        layout=(folder / value["from"]).resolve() if "from" in value else None,
        architectures=tuple(value.get("architectures", ())),
        attachments=value.get("attachments", True),
    )


def _policy(value: Mapping[str, Any], folder: Path) -> SignaturePolicy:
    keys = tuple((folder / name).resolve() for name in value["keys"])
    return SignaturePolicy(tuple(value.get("images", ["*"])), keys)


def _wheels(value: Mapping[str, Any]) -> Wheels:
    return Wheels(
        tuple(value["requirements"]),
        value["python"],
        value.get("glibc", Wheels.glibc),
        value.get("group", ""),
    )


def _values(document: documents.Document, index: int, values: object) -> str:
    at = ("spec", "charts", index, "values")
    return documents.as_written(document, at, values) if values else ""


def _chart(value: Mapping[str, Any], folder: Path, values: str) -> Chart:
    repository, keyring = value["repository"], value.get("keyring")
    if repository.startswith("file://"):
        repository = f"file://{(folder / repository.removeprefix('file://')).resolve()}"
    return Chart(
        source=Dependency(value["name"], value.get("version", ""), repository),
        group=value.get("group", ""),
        release=value.get("release", value["name"].lower().replace("_", "-").replace(".", "-")),
        namespace=value.get("namespace", "default"),
        values=values,
        values_files=tuple((folder / name).resolve() for name in value.get("valuesFiles", [])),
        api_versions=tuple(value.get("apiVersions", [])),
        keyring=(folder / keyring).resolve() if keyring else None,
        runtime_images=tuple(
            RuntimeImage(entry["ref"], entry.get("because", ""))
            for entry in value.get("runtimeImages", [])
        ),
        exclude_images=tuple(
            ExcludedImage(entry["image"], entry["because"])
            for entry in value.get("excludeImages", [])
        ),
    )


def _chart_mistakes(document: documents.Document, index: int, chart: Chart) -> Iterator[Mistake]:
    at = ("spec", "charts", index)
    for number, file in enumerate(chart.values_files):
        if not file.is_file():
            where = document.where(*at, "valuesFiles", number)
            yield Mistake(where, f"there is no file {file}")
    if chart.keyring and not chart.keyring.is_file():
        yield Mistake(document.where(*at, "keyring"), f"there is no file {chart.keyring}")
    if chart.keyring and chart.source.repository.startswith("file://"):
        text = "a folder has no provenance"
        yield Mistake(document.where(*at, "keyring"), text)
    for number, image in enumerate(chart.runtime_images):
        try:
            ImageName.parse(image.reference)
        except ValueError as error:
            yield Mistake(document.where(*at, "runtimeImages", number, "ref"), str(error))


def _debs(value: Mapping[str, Any], folder: Path) -> Debs:
    components = tuple(value.get("components", COMPONENTS))
    return Debs(
        suite=value["suite"],
        groups={name: tuple(names) for name, names in value["groups"].items()},
        components=components,
        sources=tuple(
            Archive(
                source["uri"],
                source["suite"],
                tuple(source.get("components", components)),
                str(folder.resolve() / source.get("signedBy", KEYRING)),
                tuple(source.get("architectures", ())),
            )
            for source in value.get("sources", [])
        ),
        architectures=tuple(value.get("architectures", ())),
    )


def _modules(value: Mapping[str, Any]) -> KernelModules:
    kernels = value["kernels"]
    wanted = (kernels,) if isinstance(kernels, str) else tuple(kernels)
    return KernelModules(value["name"], value["suite"], wanted)


def _binary(value: Mapping[str, Any]) -> Binary:
    return Binary(
        value["name"], value["version"], value["url"], value.get("sha256", ""),
        value.get("group", ""),
    )  # fmt: skip


def _file(value: Mapping[str, Any], folder: Path) -> File:
    path = (folder / value["path"]).resolve()
    return File(value["name"], value.get("version", ""), path, value.get("group", ""))
