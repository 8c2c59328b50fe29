"""lab/upstream/catalogue.yaml as frozen types: what the upstream mirror is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone.errors import PreflightError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = Path(__file__).resolve().parents[3] / "lab" / "upstream"
"""The modules and the catalogue: in a checkout only, the lab is not part of the wheel."""


@dataclass(frozen=True)
class Program:
    """One executable of one module.

    package: a Go import path, or a C file of the module's folder. variables: strings set at link
    time (import path.name -> value).
    """

    name: str
    module: str
    version: str
    package: str
    cgo: bool
    tags: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class File:
    """One file under its upstream URL.

    members: path in the tar -> program; empty when the file is the program called `name` itself.
    checksum: name of the checksum file that stands beside it.
    """

    name: str
    url: str
    checksum: str
    members: Mapping[str, str]

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
    """One image under its upstream reference. files: path in the image -> program."""

    ref: str
    root: str
    files: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str

    @property
    def repository(self) -> str:
        """The reference without its tag, upstream's host included."""
        return self.ref.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The reference's tag."""
        return self.ref.rpartition(":")[2]


@dataclass(frozen=True)
class Catalogue:
    """Everything the mirror can hold."""

    programs: Mapping[str, Program]
    files: tuple[File, ...]
    roots: Mapping[str, Root]
    images: tuple[Image, ...]

    def program(self, name: str) -> Program:
        """One program. Raises UsageError with the names there are."""
        if name not in self.programs:
            known = ", ".join(sorted(self.programs))
            raise UsageError(f"{name}: no such program in the catalogue", hint=f"one of: {known}")
        return self.programs[name]

    def only(self, names: Iterable[str]) -> Catalogue:
        """The part that holds these names of files and references of images.

        Raises UsageError for a name that is neither.
        """
        wanted = set(names)
        known = {file.name for file in self.files} | {image.ref for image in self.images}
        if unknown := sorted(wanted - known):
            raise UsageError(
                f"not in the catalogue: {', '.join(unknown)}",
                hint=f"one of: {', '.join(sorted(known))}",
            )
        files = tuple(file for file in self.files if file.name in wanted)
        images = tuple(image for image in self.images if image.ref in wanted)
        needed = {name for file in files for name in file.programs}
        needed |= {name for image in images for name in image.files.values()}
        return Catalogue(
            {name: program for name, program in self.programs.items() if name in needed},
            files,
            {image.root: self.roots[image.root] for image in images if image.root},
            images,
        )


def load(path: Path = FOLDER / "catalogue.yaml") -> Catalogue:
    """Read the catalogue. Raises PreflightError where there is no checkout."""
    if not path.is_file():
        raise PreflightError(f"{path}: missing", hint="the lab runs from a checkout of Keystone")
    return parse(yaml.safe_load(path.read_text()))


def parse(document: Mapping[str, Any]) -> Catalogue:
    """From the YAML document. Raises UsageError for a program or root that is not declared."""
    programs = {
        program.name: program
        for module, entry in document["modules"].items()
        for program in _programs(module, entry)
    }
    roots = {name: _root(name, entry) for name, entry in document.get("roots", {}).items()}
    files = tuple(
        File(entry["name"], entry["url"], entry["checksum"], entry.get("members", {}))
        for entry in document.get("files", [])
    )
    images = tuple(_image(entry) for entry in document.get("images", []))
    catalogue = Catalogue(programs, files, roots, images)
    for name in {name for file in files for name in file.programs}:
        catalogue.program(name)
    for image in images:
        for name in image.files.values():
            catalogue.program(name)
        if image.root and image.root not in roots:
            raise UsageError(f"{image.ref}: no root called {image.root} in the catalogue")
    return catalogue


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
    )
