"""images/<name>/image.yaml, the recipe of an image as people write it.

The lock of a recipe is the lock of a bundle with its packages. So both use the same resolver,
sources and digests, and a bundle can carry what an image is built from.
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
"""The generic kernel: the cloud kernel lacks USB storage and many drivers."""
ESSENTIAL = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils",
    "diffutils", "dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin",
    "ncurses-base", "ncurses-bin", "perl-base", "sed", "sysvinit-utils", "tar", "util-linux",
)  # fmt: skip
"""Packages with `Essential: yes`: others need them without declaring a dependency."""
TOOLS = (
    "apt", "cryptsetup-bin", "dosfstools", "e2fsprogs", "grub-common", "grub-pc-bin", "mtools",
    "qemu-utils", "sbsigntool", "squashfs-tools", "systemd-boot-efi", "systemd-repart",
    "systemd-ukify", "xorriso", "xz-utils",
)  # fmt: skip
"""Programs for builds, from the lock too: equal tools on every machine give equal bytes."""
IMAGE_GROUP, TOOLS_GROUP = "image", "tools"


@dataclass(frozen=True)
class Recipe:
    """One recipe. Folders are absolute paths. initramfs: None if the recipe has none.

    roles: applied in the tree in this order. units: by verb: enable, disable, mask.
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
        """The definition of a bundle with the packages of the image and the tools for the build."""
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
            # Roles are applied from the installer, even if the image does not contain it.
            installer=self.installer or bool(self.roles),
            mirrors={},
        )


def file_of(place: Path) -> Path:
    """The file of a recipe: the path itself, or image.yaml in that folder."""
    return place / "image.yaml" if place.is_dir() else place


def load(path: Path) -> Recipe:
    """Read a recipe. Raises ConfigurationError with every mistake."""
    schema = documents.packaged_schema("image-recipe")
    schema["properties"]["spec"]["properties"]["roles"]["items"] |= recipe_roles.rules()
    document = documents.load(path, kind="ImageRecipe", schema=schema)
    spec, folder = document.spec, path.resolve().parent
    mistakes = [*_missing(document, folder), *_repeated(document)]
    if mistakes:
        plural = "s" * (len(mistakes) > 1)
        raise ConfigurationError(f"{path}: {len(mistakes)} mistake{plural}", mistakes=mistakes)
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
        Mistake(document.where("spec", *at), f"the folder {folder / name} does not exist")
        for at, name in named
        if not (folder / name).is_dir()
    ]


def _repeated(document: Document) -> list[Mistake]:
    names = [entry["role"] for entry in document.spec.get("roles", [])]
    return [
        Mistake(
            document.where("spec", "roles", n), f"the role {name} is repeated", "keep one entry"
        )
        for n, name in enumerate(names)
        if name in names[:n]
    ]
