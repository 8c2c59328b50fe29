"""Build disk images: the system disk of disk_layout.py, small; it grows at its first start."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from keystone.image import bios, disk_layout, steps
from keystone.image.uki import PARTS
from keystone.sandbox import Inside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.image.inputs import Inputs

VERSION = 4
SLACK_MIB = 64
# $1: size of the disk; $2: seed of its ids; $3: size of the EFI partition in MiB; $4: FAT serial.
MAKE = """
export LC_ALL=C
cd /mnt/out/esp
find . -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
efi=/mnt/out/efi.img
truncate -s "${3}M" $efi
mkfs.vfat --invariant -F 32 -n ESP -i "$4" $efi >/dev/null
find . -mindepth 1 -type d | sort | while read -r folder; do mmd -i $efi "::${folder#.}"; done
find . -type f | sort | while read -r file; do mcopy -m -i $efi "$file" "::${file#.}"; done
cd /
SYSTEMD_REPART_MKFS_OPTIONS_EXT4="-E hash_seed=$2" systemd-repart --empty=create --size="$1" \\
    --seed="$2" --offline=yes --dry-run=no --no-pager \\
    --definitions=/mnt/out/repart.d /mnt/out/image
fallocate --dig-holes /mnt/out/image || echo "this file system does not support holes" >&2
"""
"""The FAT is filled file by file: with systemd-repart, mcopy would copy folders in the order that
the builder's file system lists them in. --invariant also sets a serial, so -i comes after it.
mmd(1) dates folders by SOURCE_DATE_EPOCH."""
CONVERT = [
    "qemu-img", "convert", "-m", "1", "-c", "-f", "raw", "-O", "qcow2",
    "-o", "compression_type=zstd", "/mnt/raw/image", "/mnt/out/image",
]  # fmt: skip
BOX = """\
Vagrant.configure("2") do |config|
  config.vm.guest = :debian
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.ssh.username = "root"
  config.ssh.sudo_command = "%c"
end
"""
PACK = (
    "cd /mnt/out/box; chmod 644 *; tar --format=ustar --owner=0 --group=0 --numeric-owner"
    " --mtime=@$SOURCE_DATE_EPOCH -cf ../image metadata.json Vagrantfile box.img"
)


def raw(inputs: Inputs) -> Path:
    """Build the disk image, a sparse file."""
    materials, recipe, tools = inputs.materials, inputs.recipe, inputs.tools
    boot, system = inputs.boot, inputs.system
    contents = disk_layout.Contents(
        "/mnt/out/core", "/mnt/system/root", esp_image="/mnt/out/efi.img"
    )
    wanted = disk_layout.definitions(system, recipe.version, contents)
    size = disk_layout.SMALLEST_MIB + SLACK_MIB
    name = steps.key(
        "raw", VERSION, MAKE, disk_layout.LOADER_CONF, wanted, size, boot.name, materials.epoch,
        tools.stack(),
    )  # fmt: skip

    def make(half: Path) -> None:
        parts = {part: boot / part for part in PARTS}
        fill(half / "esp", disk_layout.esp(parts, recipe.version))
        fill(half / "repart.d", wanted)
        grub = bios.placed((boot / "boot.img").read_bytes(), (boot / "core.img").read_bytes())
        (half / "core").write_bytes(grub.core)
        binds, seed = {"out": half, "system": system.file.parent}, uuid5(NAMESPACE_URL, name)
        Inside(tools, None, binds, materials.env).run([
            "sh", "-euc", MAKE,
            "raw", f"{size}M", str(seed), str(disk_layout.ESP_MIB), seed.hex[:8],
        ])  # fmt: skip
        with (half / "image").open("r+b") as image:
            image.write(grub.code)
        for used in ("esp", "repart.d"):
            shutil.rmtree(half / used)
        for used in ("core", "efi.img"):
            (half / used).unlink()

    return steps.step(name, "disk image", make) / "image"


def qcow2(inputs: Inputs) -> Path:
    """Build the compressed qcow2 image, with one thread: with more, the cluster order varies."""
    disk = raw(inputs)
    name = steps.key("qcow2", VERSION, CONVERT, disk.parent.name, inputs.tools.stack())

    def make(half: Path) -> None:
        binds = {"raw": disk.parent, "out": half}
        Inside(inputs.tools, None, binds, inputs.materials.env).run(CONVERT)

    return steps.step(name, "qcow2", make) / "image"


def vagrant(inputs: Inputs) -> Path:
    """Build a box for vagrant-libvirt (its documentation, "Box Format") with the same disk.

    The box has no user and no password: lab/Vagrantfile gives machines their keys. It has no sudo,
    and no rsync for a folder shared by Vagrant.
    """
    disk = qcow2(inputs)
    size = -(-(disk_layout.SMALLEST_MIB + SLACK_MIB) // 1024)
    files = {
        "metadata.json": json.dumps(
            {"provider": "libvirt", "format": "qcow2", "virtual_size": size}
        ),
        "Vagrantfile": BOX,
    }
    name = steps.key("vagrant", VERSION, PACK, files, disk.parent.name, inputs.tools.stack())

    def make(half: Path) -> None:
        fill(half / "box", files)
        os.link(disk, half / "box/box.img")
        Inside(inputs.tools, None, {"out": half}, inputs.materials.env).run(["sh", "-euc", PACK])
        shutil.rmtree(half / "box")

    return steps.step(name, "Vagrant box", make) / "image"


def fill(folder: Path, files: Mapping[str, Path | str]) -> Path:
    """Fill a folder. files: by path in it, a file to copy, or text. Returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            shutil.copyfile(content, path)
    return folder
