"""Build an image from its recipe: the table of contents of a build."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import sandbox
from keystone.errors import ConfigurationError
from keystone.files import half_made, require_ours, settle
from keystone.image import converge, disk, pxe, recipe, release, rootfs, squashfs, steps, uki
from keystone.image import iso as isos
from keystone.image import oci as ocis
from keystone.image.inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from keystone.image.recipe import Recipe
    from keystone.image.rootfs import Materials
    from keystone.image.secureboot import Keys

FORMATS: Mapping[str, Callable[[Inputs], Path]] = {
    "iso": isos.iso,
    "raw": disk.raw,
    "qcow2": disk.qcow2,
    "vagrant": disk.vagrant,
    "pxe": pxe.pxe,
    "uki": uki.uki,
    "oci": ocis.oci,
}

STARTED = frozenset({"raw", "qcow2"})
"""Formats that a machine writes to when started: the output must be a copy of the cached step."""


@dataclass(frozen=True)
class Built:
    """Result of `build`. size: of the file, in bytes. system: its root hash.

    release: the digest of all that a machine starts (release.py), in hex.
    register: the value of PCR 11 of a TPM that measured it (pcr.py), in hex.
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
    """Build the image at `output`.

    kind: one of FORMATS. keys: sign with them, unless None. freight: folder with further files for
    an ISO. Raises ConfigurationError, PreflightError, CommandError.
    """
    if kind not in FORMATS:
        raise ConfigurationError(
            f"{kind}: unknown format", hint=f"use one of: {', '.join(FORMATS)}"
        )
    if freight and kind != "iso":
        raise ConfigurationError(f"{kind}: only an ISO can carry files", hint="use --format iso")
    sandbox.require()
    os.umask(0o022)  # the result must not depend on the caller's umask
    tools = rootfs.packages(materials, recipe.TOOLS_GROUP, recipe.TOOLS)
    base = rootfs.packages(materials, recipe.IMAGE_GROUP, (recipe.KERNEL, *wanted.packages))
    kernel = rootfs.initramfs(materials, base, wanted)
    signed = rootfs.signed_modules(materials, base, tools, keys)
    whole = rootfs.installer(materials, signed, wanted)
    tree = rootfs.settings(materials, converge.roles(materials, whole, wanted, kernel), wanted)
    system = squashfs.system(materials, tree, tools)
    files = uki.boot_files(materials, wanted, tools, kernel, system, keys)
    inputs = Inputs(materials, wanted, tools, tree, system, files)
    if freight:
        isos.carrying(inputs, freight, output)
    else:
        place(FORMATS[kind](inputs), output, own=kind in STARTED)
    steps.sweep(time.time())
    register = (files / uki.REGISTER).read_text()
    named = release.digest(release.of(files))
    return Built(output, output.stat().st_size, system.digest, named, register)


def place(made: Path, output: Path, *, own: bool) -> None:
    """Put the finished file at `output`: a link, or a copy on another file system.

    own: always copy. Raises HostError if the disk cannot store it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    half = output.with_name(f"{output.name}.part")
    require_ours(output.parent)
    half.unlink(missing_ok=True)
    with half_made(half, output):
        if own or not _linked(made, half):
            steps.copy(made, half)
        settle(half, output, synced=True)


def _linked(made: Path, half: Path) -> bool:
    try:
        os.link(made, half)
    except OSError:
        return False
    return True
