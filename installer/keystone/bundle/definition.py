"""The bundle definition that people write: what to carry, by its upstream name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystone import documents
from keystone.bundle.source_apt import KEYRING, Archive
from keystone.bundle.source_oci import Reference
from keystone.errors import ConfigurationError, Mistake

COMPONENTS = ("main", "contrib")
VALID_DAYS = 730


@dataclass(frozen=True)
class Image:
    """An image by its upstream reference."""

    reference: Reference
    group: str


@dataclass(frozen=True)
class Debs:
    """Packages of one suite by group. sources: empty for the machine's own archives."""

    suite: str
    groups: Mapping[str, tuple[str, ...]]
    components: tuple[str, ...] = COMPONENTS
    sources: tuple[Archive, ...] = ()


@dataclass(frozen=True)
class KernelModules:
    """Modules to build as packages, for kernels by release name or "current"."""

    name: str
    suite: str
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """A file as upstream publishes it. sha256: "" to ask upstream when locking."""

    name: str
    version: str
    url: str
    sha256: str
    group: str


@dataclass(frozen=True)
class File:
    """A file of the packager's own. path: absolute."""

    name: str
    version: str
    path: Path
    group: str


@dataclass(frozen=True)
class Definition:
    """One bundle definition, as its file says it."""

    name: str
    number: int
    architectures: tuple[str, ...]
    valid_days: int
    images: tuple[Image, ...]
    debs: tuple[Debs, ...]
    modules: tuple[KernelModules, ...]
    binaries: tuple[Binary, ...]
    files: tuple[File, ...]
    installer: bool
    mirrors: Mapping[str, str]


def load(path: Path) -> Definition:
    """Read a definition. Raises ConfigurationError with every mistake."""
    document = documents.load(
        path, kind="BundleDefinition", schema=documents.packaged_schema("bundle")
    )
    spec = document.spec
    images, mistakes = [], []
    for index, value in enumerate(spec.get("images", [])):
        try:
            images.append(Image(Reference.parse(value["ref"]), value.get("group", "")))
        except ValueError as error:
            mistakes.append(Mistake(document.where("spec", "images", index, "ref"), str(error)))
    for index, value in enumerate(spec.get("files", [])):
        if not (path.parent / value["path"]).is_file():
            where = document.where("spec", "files", index, "path")
            mistakes.append(Mistake(where, f"there is no file {path.parent / value['path']}"))
    if mistakes:
        raise ConfigurationError(f"{path}: {len(mistakes)} mistakes", mistakes=mistakes)
    return Definition(
        name=document.name,
        number=spec["number"],
        architectures=tuple(spec["architectures"]),
        valid_days=spec.get("validDays", VALID_DAYS),
        images=tuple(images),
        debs=tuple(_debs(value) for value in spec.get("debs", [])),
        modules=tuple(_modules(value) for value in spec.get("kernelModules", [])),
        binaries=tuple(_binary(value) for value in spec.get("binaries", [])),
        files=tuple(_file(value, path.parent) for value in spec.get("files", [])),
        installer=spec.get("installer", True),
        mirrors=dict(spec.get("mirrors", {})),
    )


def load_mirrors(path: Path | None) -> dict[str, str]:
    """The mirrors file, empty without one."""
    if path is None:
        return {}
    document = documents.load(path, kind="Mirrors", schema=documents.packaged_schema("mirrors"))
    return dict(document.spec["mirrors"])


def _debs(value: Mapping[str, Any]) -> Debs:
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
                source.get("signedBy", KEYRING),
            )
            for source in value.get("sources", [])
        ),
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
