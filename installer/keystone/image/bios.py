"""GRUB for machines with a BIOS: boot code in sector 0 of the disk, the rest in a partition.

grub-bios-setup(8) needs a block device. This module writes the same two sector numbers, so it also
works on a disk image. Offsets: GRUB 2, boot.S (GRUB_BOOT_MACHINE_KERNEL_SECTOR) and the block list
at the end of diskboot.S.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.errors import KeystoneError

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTOR = 512
CODE = 440
"""Bytes of code in sector 0; the rest belongs to the partition table."""
KERNEL_SECTOR = 0x5C
BLOCK_LIST = SECTOR - 12
SEGMENT = 0x820
CORE_LBA = 2048
"""First sector of GRUB's partition, the first one on the disk, at 1 MiB."""
PARTITION_TYPE = "21686148-6449-6e6f-744e-656564454649"
"""GPT type of GRUB's BIOS boot partition."""
MODULES = (
    "biosdisk", "part_gpt", "fat", "normal", "linux", "serial", "terminal", "echo", "test",
    "search", "search_fs_file", "configfile", "loadenv",
)  # fmt: skip
EARLY = "search --file --set=root /keystone/grub.cfg\nset prefix=($root)/keystone\n"
"""Commands built into GRUB's core: find the file system with our menu."""


@dataclass(frozen=True)
class Loader:
    """code: the first CODE bytes of sector 0. core: the content of GRUB's partition."""

    code: bytes
    core: bytes


def placed(boot: bytes, core: bytes, lba: int = CORE_LBA) -> Loader:
    """Adapt GRUB's boot.img and core.img (grub-mkimage -O i386-pc) to a core at sector `lba`.

    Raises KeystoneError for other files.
    """
    sectors = -(-len(core) // SECTOR)
    segment = struct.unpack_from("<H", core, BLOCK_LIST + 10)[0] if len(core) > SECTOR else 0
    if len(boot) != SECTOR or segment != SEGMENT:
        raise KeystoneError("GRUB's boot.img or core.img is not for a BIOS")
    code = bytearray(boot[:CODE])
    struct.pack_into("<Q", code, KERNEL_SECTOR, lba)
    rest = bytearray(core.ljust(sectors * SECTOR, b"\0"))
    struct.pack_into("<QHH", rest, BLOCK_LIST, lba + 1, sectors - 1, SEGMENT)
    return Loader(bytes(code), bytes(rest))


CONSOLE = (
    "serial --unit=0 --speed=115200\n"
    "terminal_input console serial\nterminal_output console serial\nset timeout=3\n"
)
ENVIRONMENT = "/keystone/grubenv"
ENVIRONMENT_SIZE = 1024
ENVIRONMENT_HEAD = "# GRUB Environment Block\n"
# `trying` is started at most TRIES times; unless marked as good by then, `good` is started.
COUNT = """\
load_env -f {environment} good trying tries
if [ -n "$trying" ]; then
    if [ "$tries" = 3 ]; then set tries=2
    elif [ "$tries" = 2 ]; then set tries=1
    elif [ "$tries" = 1 ]; then set tries=0
    else set trying=
    fi
    save_env -f {environment} trying tries
fi
if [ -n "$trying" ]; then
    set default="keystone-$trying"
    set fallback="keystone-$good"
    set counted=keystone.counted
else
    set default="keystone-$good"
fi
"""
TRIES = 3
MEANT = "keystone.medium"
"""Kernel option: start the medium, whatever is on a disk (images/base/initramfs)."""


def menu(title: str, folder: str, cmdline: str) -> str:
    """grub.cfg of a medium. folder: path of the folder with vmlinuz and initrd.

    The first entry starts the disk if it has the same system; the second always starts the medium.
    """
    meant = _entry(
        "medium", f"{title}, from this medium, not the disk", folder, f"{cmdline} {MEANT}"
    )
    return CONSOLE + _entry("keystone", title, folder, cmdline) + meant


def slots(command_lines: Mapping[int, str]) -> str:
    """grub.cfg of a disk: an entry for each version, newest first, and the choice of one."""
    entries = [
        _entry(
            f"keystone-{version}",
            f"Keystone {version}",
            f"/keystone/{version}",
            f"{cmdline} $counted",
        )
        for version, cmdline in sorted(command_lines.items(), reverse=True)
    ]
    return CONSOLE + COUNT.format(environment=ENVIRONMENT) + "".join(entries)


def environment(values: Mapping[str, str]) -> str:
    """An environment block for load_env and save_env (GRUB manual, "Environment block").

    Raises KeystoneError if the values do not fit.
    """
    text = ENVIRONMENT_HEAD + "".join(f"{key}={value}\n" for key, value in values.items())
    if len(text) > ENVIRONMENT_SIZE:
        raise KeystoneError(f"{len(text)} bytes do not fit into GRUB's environment block")
    return text.ljust(ENVIRONMENT_SIZE, "#")


def values(block: str) -> dict[str, str]:
    """The values in an environment block; empty for anything else."""
    if not block.startswith(ENVIRONMENT_HEAD):
        return {}
    lines = [line for line in block.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _entry(name: str, title: str, folder: str, cmdline: str) -> str:
    """A menu entry that shows what it loads: a BIOS reads a CD or slow stick for many seconds."""
    return (
        f'menuentry "{title}" --id {name} {{\n'
        f'    echo "Keystone: loading the kernel"\n    linux {folder}/vmlinuz {cmdline}\n'
        f'    echo "Keystone: loading the initramfs"\n    initrd {folder}/initrd\n'
        '    echo "Keystone: starting the kernel"\n}\n'
    )
