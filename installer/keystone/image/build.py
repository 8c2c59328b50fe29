"""An image, from its recipe to a file: the table of contents of a build."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import sandbox
from keystone.errors import ConfigurationError
from keystone.files import half_made, require_ours, sync_directory
from keystone.image import converge, disk, pxe, recipe, release, rootfs, squashfs, steps, uki
from keystone.image import iso as isos
from keystone.image import oci as ocis
from keystone.image.inputs import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from keystone.image.recipe import Recipe
    from keystone.image.rootfs import Materials
    from keystone.image.secureboot import Keys

FORMATS: Mapping[str, Callable[[Pieces], Path]] = {
    "iso": isos.iso,
    "raw": disk.raw,
    "qcow2": disk.qcow2,
    "vagrant": disk.vagrant,
    "pxe": pxe.pxe,
    "uki": uki.uki,
    "oci": ocis.oci,
}

STARTED = frozenset({"raw", "qcow2"})
"""Formats that a machine writes to: the kept step must not be the same file."""


@dataclass(frozen=True)
class Built:
    """What `build` made: the file, its size in bytes, and the system's root hash.

    release: the digest that stands for all that a machine starts (release.py), hex.
    register: what PCR 11 of a TPM holds that measured it, hex (pcr.py).
    """

    file: Path
    size: int
    system: str
    release: str
    register: str


def build(
    wanted: Recipe,
    materials: Materials,
    kind: str,
    output: Path,
    keys: Keys | None = None,
    freight: Path | None = None,
) -> Built:
    """Make the image at `output`, signed when there are keys.

    freight: a folder of what an ISO carries besides.

    Raises ConfigurationError, PreflightError, CommandError.
    """
    if kind not in FORMATS:
        raise ConfigurationError(f"{kind}: no such format", hint=f"known: {', '.join(FORMATS)}")
    if freight and kind != "iso":
        raise ConfigurationError(f"{kind}: only an ISO carries files", hint="--format iso")
    sandbox.require()
    os.umask(0o022)  # what is made does not depend on who makes it
    tools = rootfs.packages(materials, recipe.TOOLS_GROUP, recipe.TOOLS)
    base = rootfs.packages(materials, recipe.IMAGE_GROUP, (recipe.KERNEL, *wanted.packages))
    kernel = rootfs.initramfs(materials, base, wanted)
    signed = rootfs.signed_modules(materials, base, tools, keys)
    whole = rootfs.installer(materials, signed, wanted)
    tree = rootfs.settings(materials, converge.roles(materials, whole, wanted, kernel), wanted)
    system = squashfs.system(materials, tree, tools)
    files = uki.boot_files(materials, wanted, tools, kernel, system, keys)
    pieces = Pieces(materials, wanted, tools, tree, system, files)
    if freight:
        isos.carrying(pieces, freight, output)
    else:
        place(FORMATS[kind](pieces), output, own=kind in STARTED)
    steps.sweep(time.time())
    register = (files / uki.REGISTER).read_text()
    named = release.digest(release.of(files))
    return Built(output, output.stat().st_size, system.digest, named, register)


def place(made: Path, output: Path, *, own: bool) -> None:
    """The finished file under its name: by link, or copied to another file system.

    own: always a copy. Raises HostError when the disk does not take it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    half = output.with_name(f"{output.name}.part")
    require_ours(output.parent)
    half.unlink(missing_ok=True)
    with half_made(half, output):
        if own or not _linked(made, half):
            steps.copy(made, half)
        half.replace(output)
    sync_directory(output.parent)


def _linked(made: Path, half: Path) -> bool:
    try:
        os.link(made, half)
    except OSError:
        return False
    return True
