"""images/<name>/image.yaml: what an appliance is made of, as people write it.

A recipe's lock is the lock of a bundle that holds its packages, so that the same resolver,
sources and digests serve both, and a bundle can carry what an image is built from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import documents
from keystone.errors import ConfigurationError, Mistake
from keystone.image import recipe_roles
from keystone.image.recipe_roles import Role
from keystone.packager.definition import VALID_DAYS, Debs, Definition, KernelModules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.documents import Document
    from keystone.mistakes import Position

KERNEL = "linux-image-amd64"
"""The generic kernel: the cloud kernel has no USB storage and little real hardware."""
ESSENTIAL = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils",
    "diffutils", "dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin",
    "ncurses-base", "ncurses-bin", "perl-base", "sed", "sysvinit-utils", "tar", "util-linux",
)  # fmt: skip
"""Packages with `Essential: yes`: nothing depends on them, everything may need them."""
TOOLS = (
    "apt", "cryptsetup-bin", "dosfstools", "e2fsprogs", "grub-common", "grub-pc-bin", "mtools",
    "qemu-utils", "sbsigntool", "squashfs-tools", "systemd-boot-efi", "systemd-repart",
    "systemd-ukify", "xorriso", "xz-utils",
)  # fmt: skip
"""What builds run, out of the lock too: equal tools on every machine, so equal bytes."""
IMAGE_GROUP, TOOLS_GROUP = "image", "tools"


@dataclass(frozen=True)
class Recipe:
    """One recipe. Folders are absolute; initramfs is None without one of its own.

    roles: applied in the tree, in order. units: by what is done with them: enable, disable, mask.
    """

    name: str
    version: int
    suite: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    installer: bool
    initramfs: Path | None
    files: tuple[Path, ...]
    units: Mapping[str, tuple[str, ...]]
    kernel_options: tuple[str, ...]
    roles: tuple[Role, ...] = ()

    def definition(self) -> Definition:
        """The bundle of what goes in and of the tools that build it."""
        groups = {
            IMAGE_GROUP: (*ESSENTIAL, KERNEL, *self.packages),
            TOOLS_GROUP: (*ESSENTIAL, *TOOLS),
        }
        return Definition(
            name=self.name,
            number=self.version,
            architectures=("amd64",),
            valid_days=VALID_DAYS,
            images=(),
            charts=(),
            kube_version="",
            debs=(Debs(self.suite, groups),),
            modules=tuple(KernelModules(name, self.suite, ("current",)) for name in self.modules),
            binaries=(),
            files=(),
            # Its roles are those that are applied, whether it stays in the image or not.
            installer=self.installer or bool(self.roles),
            mirrors={},
        )


def file_of(place: Path) -> Path:
    """The recipe's file: the path itself, or image.yaml in that folder."""
    return place / "image.yaml" if place.is_dir() else place


def load(path: Path) -> Recipe:
    """Read a recipe. Raises ConfigurationError with every mistake."""
    schema = documents.packaged_schema("image-recipe")
    schema["properties"]["spec"]["properties"]["roles"]["items"] |= recipe_roles.rules()
    document = documents.load(path, kind="ImageRecipe", schema=schema)
    spec, folder = document.spec, path.resolve().parent
    mistakes = [*_missing(document, folder), *_repeated(document)]
    if mistakes:
        raise ConfigurationError(f"{path}: {len(mistakes)} mistakes", mistakes=mistakes)
    units = spec.get("units", {})
    return Recipe(
        name=document.name,
        version=spec["version"],
        suite=spec["suite"],
        packages=tuple(spec["packages"]),
        modules=tuple(spec.get("kernelModules", [])),
        installer=spec.get("installer", False),
        initramfs=(folder / spec["initramfs"]).resolve() if "initramfs" in spec else None,
        files=tuple((folder / name).resolve() for name in spec.get("files", [])),
        units={verb: tuple(units.get(verb, [])) for verb in ("enable", "disable", "mask")},
        kernel_options=tuple(spec.get("kernelOptions", [])),
        roles=tuple(
            Role(entry["role"], entry.get("variables", {})) for entry in spec.get("roles", [])
        ),
    )


def _missing(document: Document, folder: Path) -> list[Mistake]:
    spec = document.spec
    named: list[tuple[Position, str]] = (
        [(("initramfs",), spec["initramfs"])] if "initramfs" in spec else []
    )
    named += [(("files", n), name) for n, name in enumerate(spec.get("files", []))]
    return [
        Mistake(document.where("spec", *at), f"there is no folder {folder / name}")
        for at, name in named
        if not (folder / name).is_dir()
    ]


def _repeated(document: Document) -> list[Mistake]:
    names = [entry["role"] for entry in document.spec.get("roles", [])]
    return [
        Mistake(document.where("spec", "roles", n), f"the role {name} is there already", "keep one")
        for n, name in enumerate(names)
        if name in names[:n]
    ]
