"""Resolve a definition to a lock: names to digests, packages to their dependencies."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import keystone
from keystone import log
from keystone.bundle.model import BY_TAG, Digest, Item
from keystone.errors import ConfigurationError, Mistake, SourceError, StatusError
from keystone.packager import image_list, kernel_modules, resolve_charts
from keystone.packager.installer import SOURCE, for_lock
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.resolve_images import ImageResolver
from keystone.packager.sources import apt, cache
from keystone.packager.sources import wheels as source_wheels
from keystone.packager.sources.machine_archives import machine_archives

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from keystone.packager.definition import Binary, Debs, Definition, File, KernelModules
    from keystone.packager.sources.apt import Deb
    from keystone.packager.sources.upstream import Sources
    from keystone.packager.sources.wheels import Wheels

MAX_CHECKSUM_FILE = 1 << 20
NO_CHECKSUM = frozenset({403, 404, 410})
"""Statuses with which file servers answer when there is no such file (object stores: 403)."""
SEED = "seed"
FILE_NAME = re.compile(r"[A-Za-z0-9._+@-]+(/[A-Za-z0-9._+@-]+)*")


@dataclass
class _Found:
    """Items and blobs resolved so far, in the order in which an installation needs them."""

    items: list[Item] = field(default_factory=list)
    blobs: dict[Digest, LockedBlob] = field(default_factory=dict)

    def add(self, item: Item, *blobs: LockedBlob) -> None:
        self.items.append(item)
        for blob in blobs:
            self.blobs.setdefault(blob.digest, blob)


def resolve(
    definition: Definition, sources: Sources, folder: Path, created: datetime,
    previous: Lock | None = None,
) -> Lock:  # fmt: skip
    """Resolve everything in a definition, asking the upstreams.

    folder: of the lock file; the lock keeps local paths relative to it. previous: the lock before
    this one; what was built for it is kept when a new build would be the same.

    Raises SourceError, ConfigurationError.
    """
    found = _Found()
    if definition.installer:
        with log.step("build the installer"):
            _installer(found, previous, created)
    for debs in definition.debs:
        with log.step(f"solve packages of {debs.suite}"):
            _debs(found, debs, definition, sources)
    with log.progress("look up binaries", len(definition.binaries), in_bytes=False) as bar:
        for binary in definition.binaries:
            _binary(found, binary, sources)
            bar.advance(1)
    for file in definition.files:
        _file(found, file, folder)
    for wheels in definition.wheels:
        with log.step(f"solve wheels of {' '.join(wheels.requirements)}"):
            _wheels(found, wheels, definition, sources)
    charts = resolve_charts.resolve(definition, sources, folder)
    for item, blobs in charts.items:
        found.add(item, *blobs)
    images = ImageResolver(sources, folder, definition.architectures, definition.signatures)
    for item, blobs in images.resolve_all(image_list.wanted(definition.images, charts.needs)):
        found.add(item, *blobs)
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


def _installer(found: _Found, previous: Lock | None, created: datetime) -> None:
    known = [
        (blob.source, blob.digest)
        for blob in (previous.blobs if previous else ())
        if blob.source.startswith(SOURCE)
    ]
    built, source = for_lock(known[0] if known else None, created.date())
    digest, size = _keep(built)
    found.add(
        Item("installer", "keystone-install", keystone.__version__, digest, size),
        LockedBlob(digest, size, source),
    )


def _debs(found: _Found, debs: Debs, definition: Definition, sources: Sources) -> None:
    """Add the packages of every architecture; "Architecture: all" packages are added once."""
    packages: dict[str, Deb] = {}
    groups: dict[str, dict[str, None]] = {}
    required: set[str] = set()
    architectures = debs.architectures or definition.architectures
    for architecture in architectures:
        with _tree(debs, architecture, sources) as tree:
            needed = tree.required()
            closures = {group: tree.closure(names) for group, names in debs.groups.items()}
        for group, closure in closures.items():
            for deb in closure:
                packages[deb.filename] = deb
                groups.setdefault(deb.filename, {})[group] = None
                if deb.name in needed:
                    required.add(deb.filename)
    for filename, deb in packages.items():
        labels = {"groups": ",".join(groups[filename])}
        if filename in required:
            labels["base"] = "required"
        found.add(*_deb(deb, debs.suite, labels, deb.url))
    for modules in definition.modules:
        if modules.suite == debs.suite:
            for deb, kernel in _modules(modules):
                packages[deb.filename] = deb
                labels = {"groups": SEED, "kernel": kernel}
                found.add(*_deb(deb, debs.suite, labels, f"built:{modules.name}/{kernel}"))
    _packages(found, debs.suite, packages.values(), architectures)


def _tree(debs: Debs, architecture: str, sources: Sources) -> AbstractContextManager[apt.Tree]:
    archives = debs.sources or machine_archives(debs.suite, debs.components)
    fitting = [archive for archive in archives if archive.has(architecture)]
    if not fitting:
        raise ConfigurationError(
            f"{debs.suite}: no apt archive provides {architecture}",
            hint=f"add one to spec.debs[].sources, with architectures: [{architecture}]",
        )
    return apt.Tree.ready(fitting, architecture, sources)


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
    for wanted in modules.kernels:
        kernel = kernel_modules.resolve_kernel(modules.suite, wanted)
        for path in kernel_modules.build(modules.name, modules.suite, kernel):
            _keep(path)
            yield apt.local_deb(path), kernel


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
        digest = Digest(binary.sha256)
        size = sources.size_of(binary.url, digest)
    else:
        digest, size = _published(binary.url, sources)
    labels = {"group": binary.group, "url": binary.url}
    found.add(
        Item("binary", binary.name, binary.version, digest, size, labels),
        LockedBlob(digest, size, binary.url),
    )


def _published(url: str, sources: Sources) -> tuple[Digest, int]:
    """Return the digest that upstream publishes beside the file, else hash the file itself."""
    try:
        text = sources.read(f"{url}.sha256", limit=MAX_CHECKSUM_FILE).decode(errors="replace")
    except StatusError as error:
        if error.status not in NO_CHECKSUM:
            raise
        log.debug(f"{url}: no checksum file ({error.message}); hashing the file itself")
        return sources.digest_of(url)
    match = re.match(r"\s*([0-9a-f]{64})\b", text)
    if not match:
        raise SourceError(f"{url}.sha256: contains no SHA-256", hint="set sha256 in the definition")
    digest = Digest(match[1])
    return digest, sources.size_of(url, digest)


def _file(found: _Found, file: File, folder: Path) -> None:
    for name, path in _files_below(file.name, file.path):
        digest, size = _hash(path)
        source = f"local:{os.path.relpath(path, folder.resolve())}"
        item = Item("file", name, file.version, digest, size, {"group": file.group})
        found.add(item, LockedBlob(digest, size, source))


def _files_below(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the file itself, or each file of a folder as name/path, sorted by path.

    Raises ConfigurationError that lists everything that a bundle cannot carry: links, devices, file
    names with other characters than FILE_NAME has.
    """
    if path.is_file():
        yield name, path
        return
    files, wrong = [], []
    for inner in path.rglob("*"):
        place = inner.relative_to(path).as_posix()
        if inner.is_symlink() or not (inner.is_dir() or inner.is_file()):
            mistake = "neither a regular file nor a folder"
            wrong.append(Mistake(str(inner), mistake, "replace it with a file"))
        elif not FILE_NAME.fullmatch(place):
            wrong.append(Mistake(str(inner), "its name has characters other than A-Za-z0-9._+@-"))
        elif inner.is_file():
            files.append((place, inner))
    if wrong:
        wrong.sort(key=lambda mistake: mistake.where)
        raise ConfigurationError(
            f"{path}: a bundle cannot carry everything in this folder", mistakes=wrong
        )
    for place, inner in sorted(files):
        yield f"{name}/{place}", inner


def _wheels(found: _Found, wheels: Wheels, definition: Definition, sources: Sources) -> None:
    for architecture in definition.architectures:
        for wheel in source_wheels.solve(wheels, architecture, sources.ca_file):
            url = sources.upstream(wheel.url)
            size = sources.size_of(url, wheel.digest)
            labels = {
                "group": wheels.group,
                "filename": f"wheels/{wheel.filename}",
                "python": wheels.python,
                "url": url,
            }
            found.add(
                Item("wheel", wheel.name, wheel.version, wheel.digest, size, labels),
                LockedBlob(wheel.digest, size, url),
            )


def _unique(items: Iterable[Item]) -> None:
    """Require unique items: roles look them up by kind and name. Raises ConfigurationError."""
    seen: dict[tuple[str, ...], Item] = {}
    for item in items:
        labels = item.labels
        where = item.version if item.kind in BY_TAG else ""
        if item.kind == "wheel":
            where = labels["filename"]
        key = (item.kind, item.name, where, labels.get("suite", ""), labels.get("kernel", ""),
               labels.get("architecture", ""))  # fmt: skip
        if key in seen and seen[key].digest != item.digest:
            raise ConfigurationError(
                f"{item.kind} {item.name} is there twice: {seen[key].version} and {item.version}",
                hint="list each item once in the definition",
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
