"""Check what converged hosts need: files in archives, packages, units, programs, images."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from keystone.bundle.formats import foreign_tar
from keystone.bundle.formats.compressed import expanded
from keystone.bundle.formats.pieces import UnreadableError, of_file
from keystone.bundle.model import STORE, Digest
from keystone.closure.commands import ALWAYS, interpreters, unit_commands, words
from keystone.closure.content import describe
from keystone.closure.debs import usr
from keystone.closure.finding import Finding
from keystone.closure.images import Question
from keystone.closure.sites import NOT_INSIDE
from keystone.errors import KeystoneError
from keystone.packager.charts import references
from keystone.packager.charts.image_names import ImageName

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keystone.bundle.model import Item
    from keystone.closure.content import Content
    from keystone.closure.debs import Debs
    from keystone.closure.roles import Converged, Placed

BLOBS = f"{STORE}/blobs/sha256/"
INSTALLER = "/usr/local/bin/keystone-install"
PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
UNITS = ("/etc/systemd/system/", "/usr/lib/systemd/system/")
SYSTEM_UNITS = re.compile(r"(?:network|local-fs|multi-user|sysinit|basic|time-sync).*\.target$")


@dataclass
class Hosts:
    """Compares the converged hosts with the content of the bundle.

    members: names of files in archives, by digest; a cache.
    """

    content: Content
    debs: Debs
    converged: Sequence[Converged]
    members: dict[Digest, frozenset[str]] = field(default_factory=dict)

    def check(self) -> Iterator[Finding]:
        """Check everything except images, which `questions` yields."""
        for done in self.converged:
            who = f"role {done.role}"
            for placed in done.files:
                yield from self._file(who, placed)
            for name, source in done.packages:
                yield from self._package(who, name, source)
            for name in done.units:
                yield from self._unit(name, who)
            for command in done.commands:
                yield from self._program(
                    command[0] if command else "", f"{who}: {' '.join(command)}"
                )
                if "modprobe" in command[0:1]:
                    yield from self._modules(command[1:], who)

    def questions(self) -> Iterator[Question]:
        """Images in manifests and in containerd's configuration."""
        # Many hosts get the same manifests; read each only once.
        for role, placed in {(d.role, p): None for d in self.converged for p in d.files}:
            for image, where in _images(placed):
                if image.tag != NOT_INSIDE:
                    yield Question(image, f"role {role}: {placed.path}: {where}")

    @cached_property
    def _placed(self) -> frozenset[str]:
        return frozenset(usr(p.path) for done in self.converged for p in done.files) | {INSTALLER}

    @cached_property
    def _there(self) -> frozenset[str]:
        return self._placed | self.debs.paths

    def _file(self, who: str, placed: Placed) -> Iterator[Finding]:
        if placed.source.startswith(BLOBS):
            yield from self._blob(who, placed)
        elif placed.source.startswith(f"{STORE}/"):
            name = placed.source.rpartition("/")[2]
            names = {i.labels.get("filename", i.name) for i in self.content.manifest.items}
            if name not in names:
                yield Finding("item", f"file {name}", f"{who}: {placed.path}",
                              f"spec.files or spec.binaries: {name}")  # fmt: skip
        text = placed.content or ""
        where = f"{who}: {placed.path}"
        if placed.path.startswith(UNITS):
            yield from self._unit_file(text, where)
        elif text.startswith("#!"):
            for name in (*interpreters(text), *words(text)):
                yield from self._program(name, where)

    def _unit_file(self, text: str, where: str) -> Iterator[Finding]:
        for program in unit_commands(text):
            yield from self._program(program[0], where)
            if program[0].endswith("/modprobe"):
                yield from self._modules([w for w in program[1:] if w[:1] != "-"], where)
        for names in re.findall(r"(?m)^(?:Requires|BindsTo|Requisite)=(.+)$", text):
            for unit in names.split():
                yield from self._unit(unit, where)

    def _blob(self, who: str, placed: Placed) -> Iterator[Finding]:
        digest = Digest(placed.source.removeprefix(BLOBS))
        item = next((i for i in self.content.manifest.items if i.digest == digest), None)
        if item is None or not placed.member:
            return  # RecordingManifest has recorded the missing item
        if digest in self.content.inside and placed.member not in self._members(item):
            yield Finding(
                "file", f"{placed.member} in {describe(item)}", f"{who}: {placed.path}",
                f"spec.binaries: use an archive of {item.name} that contains {placed.member}",
            )  # fmt: skip

    def _members(self, item: Item) -> frozenset[str]:
        if item.digest not in self.members:
            names = set()
            try:
                with self.content.open(item.digest) as file:
                    for member in foreign_tar.members(expanded(of_file(file))):
                        if member.kind == "file":
                            names.add(member.name.removeprefix("./"))
            except UnreadableError:
                names = set()  # not an archive, so it has no members
            self.members[item.digest] = frozenset(names)
        return self.members[item.digest]

    def _package(self, who: str, name: str, source: str) -> Iterator[Finding]:
        wanted, _, version = name.partition("=")
        suite = re.search(r"/apt/([a-z]+)(?:\s|$)", source)
        listed = [
            item.labels.get("architecture", "").split()
            for item in self.content.manifest.of_kind("packages")
            if suite is None or item.name == suite[1]
        ]
        for architecture in listed[0] if listed else self.content.architectures:
            found = any(
                item.name == wanted
                and item.labels.get("architecture") in {architecture, "all"}
                and (item.version == version or not version)
                and (suite is None or item.labels.get("suite") == suite[1])
                and (suite is not None or "seed" in item.labels.get("groups", "").split(","))
                for item in self.content.manifest.of_kind("deb")
            )
            if not found:
                where = (
                    f"spec.debs ({suite[1]}): add {wanted}"
                    if suite
                    else (f"spec.debs: add {wanted} to group seed")
                )
                yield Finding("role-package", f"package {name} ({architecture})",
                              f"{who}, from {source}", where)  # fmt: skip

    def _unit(self, name: str, who: str) -> Iterator[Finding]:
        full = name if re.search(r"\.[a-z]+$", name) else f"{name}.service"
        template = re.sub(r"@.*(\.\w+)$", r"@\1", full)
        for folder in UNITS:
            if {f"{folder}{full}", f"{folder}{template}"} & self._there:
                return
        if not SYSTEM_UNITS.match(full):
            yield Finding("unit", full, who, f"spec.debs: add the package that contains {full}")

    def _program(self, name: str, asks: str) -> Iterator[Finding]:
        if not name or "{" in name or "$" in name:
            return
        base = name.rpartition("/")[2]
        places = {usr(name)} if name.startswith("/") else {f"{p}/{base}" for p in PATH}
        essential = base in ALWAYS and (not name.startswith("/usr/local/"))
        if not (places & self._there or essential):
            yield Finding(
                "program", name, asks, f"spec.debs or spec.binaries: add what contains {base}"
            )

    def _modules(self, names: Sequence[str], asks: str) -> Iterator[Finding]:
        """Check modules that are not part of Debian's kernels; the host has all others."""
        for name in names:
            if name != "zfs":
                continue
            if not any(re.search(rf"/{name}\.ko(\.\w+)?$", path) for path in self.debs.paths):
                yield Finding("kernel-module", name, asks, f"spec.kernelModules: name: {name}")


def _images(placed: Placed) -> Iterator[tuple[ImageName, str]]:
    text = placed.content or ""
    if placed.path.endswith((".yaml", ".yml", ".json")):
        try:
            documents = references.load(text)
        except ValueError:
            return  # not a manifest: other programs also use these extensions
        for asked in references.find([d for d in documents if isinstance(d, dict) and "kind" in d]):
            yield asked.image, str(asked.place)
    elif placed.path.endswith(".toml"):
        try:
            for path, image in _sandbox(tomllib.loads(text), ""):
                yield ImageName.parse(image), path
        except (tomllib.TOMLDecodeError, ValueError) as error:
            raise KeystoneError(f"{placed.path}: {error}") from error


def _sandbox(value: Any, at: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 TOML
    """The pause image of containerd: `sandbox_image` (version 2), `pinned_images.sandbox` (3)."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        where = f"{at}.{key}".lstrip(".")
        if isinstance(inner, str) and (key == "sandbox_image" or where.endswith("images.sandbox")):
            yield where, inner
        yield from _sandbox(inner, where)
