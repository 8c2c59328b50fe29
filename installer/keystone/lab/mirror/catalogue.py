"""lab/upstream/catalogue.yaml as frozen types: the content of the upstream mirror."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone.errors import PreflightError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FOLDER = Path(__file__).resolve().parents[4] / "lab" / "upstream"
"""Folder of the modules and the catalogue, in a checkout only: the wheel has no lab."""


@dataclass(frozen=True)
class Patch:
    """Changes in a copy of a module's source before a program is built from it.

    package: replaced by our `folder`, if any. Versions in the copy's go.mod that our go.mod
    replaces by older ones are changed to these: a replaced module keeps the name of the requested
    version, and Go's cache is keyed by that name.
    """

    module: str
    package: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Program:
    """One executable of one module.

    package: a Go import path, or a C file in the module's folder. variables: strings set at link
    time (import path.name -> value). shares: a module with most of the same packages, which is
    built first. published: URL of the bare program, "" if upstream does not publish it.
    """

    name: str
    module: str
    version: str
    package: str
    cgo: bool
    tags: tuple[str, ...]
    variables: Mapping[str, str]
    shares: str = ""
    published: str = ""
    patch: Patch | None = None


@dataclass(frozen=True)
class File:
    """One file under its upstream URL.

    members: path in the tar -> program; empty if the file is the program `name` itself. checksum:
    name of its checksum file, at the same place. release: the older release that it belongs to.
    binary: the binary of the platform that it replaces in that release.
    """

    name: str
    url: str
    checksum: str
    members: Mapping[str, str]
    release: str = ""
    binary: str = ""

    @property
    def checksum_url(self) -> str:
        """URL of the checksum file."""
        return f"{self.url.rpartition('/')[0]}/{self.checksum}"

    @property
    def programs(self) -> frozenset[str]:
        """Names of the programs inside."""
        return frozenset(self.members.values() or {self.name})


@dataclass(frozen=True)
class Root:
    """A small Debian system.

    links: path -> target of a symbolic link; applets: links to busybox in usr/bin.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    links: Mapping[str, str]


@dataclass(frozen=True)
class Image:
    """One image under its upstream reference.

    files: path in the image -> program. release: the older release that it belongs to.
    """

    ref: str
    root: str
    files: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    release: str = ""

    @property
    def repository(self) -> str:
        """The reference without its tag, with upstream's host."""
        return self.ref.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The reference's tag."""
        return self.ref.rpartition(":")[2]


@dataclass(frozen=True)
class Catalogue:
    """Everything that the mirror can serve."""

    programs: Mapping[str, Program]
    files: tuple[File, ...]
    roots: Mapping[str, Root]
    images: tuple[Image, ...]

    def program(self, name: str) -> Program:
        """One program. Raises UsageError for an unknown name."""
        if name not in self.programs:
            known = ", ".join(sorted(self.programs))
            raise UsageError(
                f"{name}: no such program in the catalogue", hint=f"use one of: {known}"
            )
        return self.programs[name]

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of the older releases, which are built only on request."""
        entries: tuple[File | Image, ...] = (*self.files, *self.images)
        return tuple(sorted({entry.release for entry in entries} - {""}))

    def usual(self) -> Catalogue:
        """The part for the platform's definition, without older releases."""
        return self._part([e for e in self.files if not e.release],
                          [e for e in self.images if not e.release])  # fmt: skip

    def only(self, names: Iterable[str]) -> Catalogue:
        """The part with these names of files, references of images, and older releases.

        Raises UsageError for an unknown name.
        """
        wanted = set(names)
        known = {file.name for file in self.files} | {image.ref for image in self.images}
        known |= set(self.releases)
        if unknown := sorted(wanted - known):
            raise UsageError(
                f"not in the catalogue: {', '.join(unknown)}",
                hint=f"use one of: {', '.join(sorted(known))}",
            )
        return self._part([e for e in self.files if {e.name, e.release} & wanted],
                          [e for e in self.images if {e.ref, e.release} & wanted])  # fmt: skip

    def _part(self, files: Sequence[File], images: Sequence[Image]) -> Catalogue:
        """The part with these files and images, and the programs and roots that they need."""
        needed = {name for file in files for name in file.programs}
        needed |= {name for image in images for name in image.files.values()}
        return Catalogue(
            {name: program for name, program in self.programs.items() if name in needed},
            tuple(files),
            {image.root: self.roots[image.root] for image in images if image.root},
            tuple(images),
        )


def load(path: Path = FOLDER / "catalogue.yaml") -> Catalogue:
    """Read the catalogue. Raises PreflightError outside a checkout."""
    if not path.is_file():
        raise PreflightError(f"{path} is missing", hint="run the lab from a checkout of Keystone")
    return parse(yaml.safe_load(path.read_text()))


def parse(document: Mapping[str, Any]) -> Catalogue:
    """Parse the YAML document. Raises UsageError for a program or root that is not declared."""
    programs = {
        program.name: program
        for module, entry in document["modules"].items()
        for program in _programs(module, entry)
    }
    roots = {name: _root(name, entry) for name, entry in document.get("roots", {}).items()}
    files = tuple(File(**{"members": {}, **entry}) for entry in document.get("files", []))
    images = tuple(_image(entry) for entry in document.get("images", []))
    catalogue = Catalogue(programs, files, roots, images)
    for name in {name for file in files for name in file.programs}:
        catalogue.program(name)
    for image in images:
        for name in image.files.values():
            catalogue.program(name)
        if image.root and image.root not in roots:
            raise UsageError(f"{image.ref}: no root {image.root} in the catalogue")
    return catalogue


def executable_name(package: str) -> str:
    """The file name of the program that `go build` makes from an import path (go help build).

    It is the last element, or the one before it if the last is the module's major version.
    """
    *before, last = package.split("/")
    return before[-1] if before and re.fullmatch(r"v[2-9]|v[1-9][0-9]+", last) else last


def _programs(module: str, entry: Mapping[str, Any]) -> list[Program]:
    return [
        Program(
            name,
            module,
            entry["version"],
            package,
            entry.get("cgo", False),
            tuple(entry.get("tags", ())),
            entry.get("variables", {}),
            entry.get("shares", ""),
            entry.get("published", "").format(program=executable_name(package)),
            Patch(**entry["patch"]) if "patch" in entry else None,
        )
        for name, package in entry["programs"].items()
    ]


def _root(name: str, entry: Mapping[str, Any]) -> Root:
    applets = {f"usr/bin/{applet}": "busybox" for applet in entry.get("applets", ())}
    links = {**applets, **entry.get("links", {})}
    return Root(name, entry["suite"], tuple(entry["packages"]), links)


def _image(entry: Mapping[str, Any]) -> Image:
    return Image(
        entry["ref"],
        entry.get("root", ""),
        entry.get("files", {}),
        tuple(entry.get("entrypoint", ())),
        tuple(entry.get("command", ())),
        entry.get("user", ""),
        entry.get("release", ""),
    )
