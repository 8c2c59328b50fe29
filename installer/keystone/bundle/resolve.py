"""From a definition to a lock: every name becomes a digest, every need of a package is found."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import keystone
from keystone import log
from keystone.bundle import cache, image_list, resolve_charts, source_apt, source_oci
from keystone.bundle.addresses import SourceError
from keystone.bundle.executable import executable
from keystone.bundle.lock import Lock, LockedBlob
from keystone.bundle.model import Digest, Item
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from keystone.bundle.definition import Binary, Debs, Definition, File, KernelModules
    from keystone.bundle.source_apt import Deb
    from keystone.bundle.sources import Sources

MAX_CHECKSUM_FILE = 1 << 20
SEED = "seed"


@dataclass
class _Found:
    """What was resolved so far, in the order in which an installation needs it."""

    items: list[Item] = field(default_factory=list)
    blobs: dict[Digest, LockedBlob] = field(default_factory=dict)

    def add(self, item: Item, *blobs: LockedBlob) -> None:
        self.items.append(item)
        for blob in blobs:
            self.blobs.setdefault(blob.digest, blob)


def resolve(definition: Definition, sources: Sources, folder: Path, created: datetime) -> Lock:
    """Ask every upstream. folder: of the lock file; local paths are kept relative to it.

    Raises SourceError, ConfigurationError.
    """
    found = _Found()
    if definition.installer:
        with log.step("build the installer"):
            _installer(found)
    for debs in definition.debs:
        with log.step(f"solve packages of {debs.suite}"):
            _debs(found, debs, definition)
    with log.progress("look up binaries", len(definition.binaries), in_bytes=False) as bar:
        for binary in definition.binaries:
            _binary(found, binary, sources)
            bar.advance(1)
    for file in definition.files:
        _file(found, file, folder)
    charts = resolve_charts.resolve(definition, sources, folder)
    for item, blobs in charts.items:
        found.add(item, *blobs)
    platforms = frozenset(f"linux/{name}" for name in definition.architectures)
    images = image_list.wanted(definition.images, charts.needs)
    with log.progress("look up images", len(images), in_bytes=False) as bar:
        for image in images:
            _image(found, image, sources, platforms)
            bar.advance(1)
    _unique(found.items)
    return Lock(
        name=definition.name,
        number=definition.number,
        created=created,
        valid_days=definition.valid_days,
        architectures=definition.architectures,
        items=tuple(found.items),
        blobs=tuple(found.blobs.values()),
    )


def _installer(found: _Found) -> None:
    built = executable()
    digest, size = _keep(built)
    found.add(
        Item("installer", "keystone-install", keystone.__version__, digest, size),
        LockedBlob(digest, size, "built:installer"),
    )


def _debs(found: _Found, debs: Debs, definition: Definition) -> None:
    packages: dict[str, Deb] = {}
    for architecture in definition.architectures:
        archives = debs.sources or source_apt.machine_archives(debs.suite, debs.components)
        tree = source_apt.Tree.create(archives, architecture)
        required = tree.required()
        groups: dict[str, list[str]] = {}
        for group, names in debs.groups.items():
            for deb in tree.closure(names):
                packages[deb.filename] = deb
                groups.setdefault(deb.filename, []).append(group)
        for filename, deb in packages.items():
            if filename in groups:
                labels = {"groups": ",".join(groups[filename])}
                if deb.name in required:
                    labels["base"] = "required"
                found.add(*_deb(deb, debs.suite, labels, deb.url))
    for modules in definition.modules:
        if modules.suite == debs.suite:
            for deb, kernel in _modules(modules):
                packages[deb.filename] = deb
                labels = {"groups": SEED, "kernel": kernel}
                found.add(*_deb(deb, debs.suite, labels, f"built:{modules.name}/{kernel}"))
    _packages(found, debs.suite, packages.values(), definition.architectures)


def _deb(deb: Deb, suite: str, labels: dict[str, str], source: str) -> tuple[Item, LockedBlob]:
    labels = {
        **labels,
        "group": labels["groups"].split(",")[0],
        "suite": suite,
        "architecture": deb.architecture,
        "filename": deb.filename,
    }
    return (
        Item("deb", deb.name, deb.version, deb.digest, deb.size, labels),
        LockedBlob(deb.digest, deb.size, source),
    )


def _modules(modules: KernelModules) -> Iterator[tuple[Deb, str]]:
    builder = importlib.import_module("keystone.image.modules")
    for wanted in modules.kernels:
        kernel = str(builder.resolve_kernel(modules.suite, wanted))
        paths = cast("list[Path]", builder.build(modules.name, modules.suite, kernel))
        for path in paths:
            _keep(path)
            yield source_apt.local_deb(path), kernel


def _packages(
    found: _Found, suite: str, debs: Iterable[Deb], architectures: tuple[str, ...]
) -> None:
    stanzas = [deb.control for deb in sorted(debs, key=lambda deb: deb.filename)]
    text = "\n\n".join(stanzas) + "\n"
    data = text.encode()
    digest = Digest(hashlib.sha256(data).hexdigest())
    labels = {"suite": suite, "architecture": " ".join(architectures), "group": "packages"}
    found.add(
        Item("packages", suite, "", digest, len(data), labels),
        LockedBlob(digest, len(data), f"inline:{text}"),
    )


def _binary(found: _Found, binary: Binary, sources: Sources) -> None:
    if binary.sha256:
        digest, size = Digest(binary.sha256), sources.size_of(binary.url)
    else:
        digest, size = _published(binary.url, sources)
    labels = {"group": binary.group, "url": binary.url}
    found.add(
        Item("binary", binary.name, binary.version, digest, size, labels),
        LockedBlob(digest, size, binary.url),
    )


def _published(url: str, sources: Sources) -> tuple[Digest, int]:
    """The digest that upstream publishes beside the file, or else of the file itself."""
    try:
        text = sources.read(f"{url}.sha256", limit=MAX_CHECKSUM_FILE).decode(errors="replace")
    except SourceError as error:
        log.debug(f"{url}: no checksum file ({error.message}); hashing the file itself")
        return sources.digest_of(url)
    match = re.match(r"\s*([0-9a-f]{64})\b", text)
    if not match:
        raise SourceError(f"{url}.sha256: no SHA-256 in it", hint="give sha256 in the definition")
    return Digest(match[1]), sources.size_of(url)


def _file(found: _Found, file: File, folder: Path) -> None:
    digest, size = _hash(file.path)
    source = f"local:{os.path.relpath(file.path, folder.resolve())}"
    item = Item("file", file.name, file.version, digest, size, {"group": file.group})
    found.add(item, LockedBlob(digest, size, source))


def _image(
    found: _Found, image: image_list.Wanted, sources: Sources, platforms: frozenset[str]
) -> None:
    try:
        resolved = source_oci.resolve(sources, image.reference, platforms)
    except SourceError as error:
        if not image.why:
            raise
        raise SourceError(
            f"{image.reference.name}:{image.reference.tag}, because {image.why}: {error.message}",
            hint=error.hint or "if the site needs it not: excludeImages of that chart",
        ) from error
    source = f"registry:{image.reference.name}"
    parts = [resolved.root, *resolved.manifests, *resolved.blobs]
    found.add(
        Item(
            "image", image.reference.name, image.reference.tag, resolved.root.digest,
            resolved.root.size,
            {"group": image.group, "mediaType": resolved.root.media_type}
            | ({"why": image.why} if image.why else {}),
            tuple(part.digest for part in parts[1:]),
        ),
        *(LockedBlob(part.digest, part.size, source, part.media_type) for part in parts),
    )  # fmt: skip


def _unique(items: Iterable[Item]) -> None:
    """A role asks for an item by kind and name: two answers would be a guess."""
    seen: dict[tuple[str, ...], Item] = {}
    for item in items:
        where = item.version if item.kind == "image" else ""
        labels = item.labels
        key = (item.kind, item.name, where, labels.get("suite", ""), labels.get("kernel", ""),
               labels.get("architecture", ""))  # fmt: skip
        if key in seen and seen[key].digest != item.digest:
            raise ConfigurationError(
                f"two of {item.kind} {item.name}: {seen[key].version} and {item.version}",
                hint="name each thing once in the definition",
            )
        seen[key] = item


def _keep(path: Path) -> tuple[Digest, int]:
    digest, size = _hash(path)
    if not cache.has(digest, size):
        with path.open("rb") as file:
            cache.keep(digest, iter(lambda: file.read(1 << 20), b""))
    return digest, size


def _hash(path: Path) -> tuple[Digest, int]:
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest()), path.stat().st_size
