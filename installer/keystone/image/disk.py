"""A disk image: the system disk as layout.py has it, small; it grows where it is started."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from keystone.image import bios, layout, steps
from keystone.image.boot import PARTS
from keystone.image.sandbox import Inside, Tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.image.recipe import Recipe
    from keystone.image.root import System
    from keystone.image.rootfs import Materials

VERSION = 1
LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
SLACK_MIB = 64
MAKE = """
find /mnt/out/esp -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
SYSTEMD_REPART_MKFS_OPTIONS_EXT4="-E hash_seed=$2" systemd-repart --empty=create --size="$1" \\
    --seed="$2" --offline=yes --dry-run=no --no-pager \\
    --definitions=/mnt/out/repart.d /mnt/out/image
"""


def raw(materials: Materials, recipe: Recipe, tools: Tree, boot: Path, system: System) -> Path:
    """The disk image, sparse. boot: the folder of boot.boot_files."""
    contents = layout.Contents("/mnt/out/core", "/mnt/system/root", "/mnt/out/esp")
    wanted = layout.definitions(system, recipe.version, contents)
    size = layout.SMALLEST_MIB + SLACK_MIB
    name = steps.key(
        "raw", VERSION, MAKE, layout.LOADER_CONF, wanted, size, boot.name, materials.epoch,
        tools.stack(),
    )  # fmt: skip

    def make(half: Path) -> None:
        parts = {part: boot / part for part in PARTS}
        (tree,) = tools.layers
        fill(half / "esp", layout.esp(parts, tree / LOADER, recipe.version))
        fill(half / "repart.d", wanted)
        grub = bios.placed((boot / "boot.img").read_bytes(), (boot / "core.img").read_bytes())
        (half / "core").write_bytes(grub.core)
        binds = {"out": half, "system": system.file.parent}
        Inside(tools, None, binds, materials.env).run([
            "sh", "-euc", MAKE, "raw", f"{size}M", str(uuid5(NAMESPACE_URL, name))
        ])  # fmt: skip
        with (half / "image").open("r+b") as image:
            image.write(grub.code)
        for used in ("esp", "repart.d"):
            shutil.rmtree(half / used)
        (half / "core").unlink()

    return steps.step(name, "disk image", make) / "image"


def fill(folder: Path, files: Mapping[str, Path | str]) -> Path:
    """Files in a folder by their paths in it: copies, or text."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            shutil.copyfile(content, path)
    return folder
