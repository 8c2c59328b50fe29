"""Partitions of the system disk: boot loaders, two slots for the system, and the state.

    keystone-grub    GRUB for a BIOS; UEFI ignores it
    keystone-esp     for UEFI: a unified kernel image for each slot; for GRUB: kernel and initrd
    keystone-<n>     the slot of version n; its PARTUUID is the first half of the root hash
    _empty           the other slot, for the next version
    keystone-state   all data that the machine writes; it fills the disk

systemd-repart(8) writes the partition table last: after an interrupted write the disk has none, so
the machine starts from its medium again. Labels and types follow repart.d(5), systemd-sysupdate(8)
and the Discoverable Partitions Specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.image import bios

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.image.squashfs import System

MIB = 1 << 20
ESP_MIB = 512
SLOT_MIB = 2048
STATE_MIB = 512
SMALLEST_MIB = ESP_MIB + 2 * SLOT_MIB + STATE_MIB + 16
"""Smallest disk: the partitions, and space for tables and alignment."""
STATE = "keystone-state"
LOADER_CONF = "timeout 3\nconsole-mode keep\neditor no\n"
"""Settings of systemd-boot (loader.conf(5))."""
TRIES = bios.TRIES
"""How often a new version is tried before the previous version starts again."""
REMOVABLE = "EFI/BOOT/BOOTX64.EFI"
"""Path that firmware starts on media and disks without a boot entry (UEFI 2.10, 3.5.1.1)."""
VERSIONS = "keystone"
GRUB_MENU, GRUB_ENVIRONMENT = "keystone/grub.cfg", bios.ENVIRONMENT.removeprefix("/")
FREE = "_empty"
"""Label of an empty slot (systemd-sysupdate(8))."""


def uki_name(version: int, tries: int = TRIES) -> str:
    """Path of the UKI in the ESP; systemd-boot counts down the number after the +.

    See Automatic Boot Assessment in the UAPI Group's Boot Loader Specification.
    """
    return f"EFI/Linux/keystone_{version}+{tries}.efi"


def esp(parts: Mapping[str, Path], version: int) -> Mapping[str, Path | str]:
    """The first content of the EFI system partition: by path, a file to copy, or text.

    parts: the path of each of uki.PARTS.
    """
    return {
        REMOVABLE: parts["systemd-boot.efi"],
        "loader/loader.conf": LOADER_CONF,
        **of_version(parts, version),
        GRUB_MENU: bios.slots({version: parts["cmdline"].read_text()}),
        GRUB_ENVIRONMENT: bios.environment({"good": str(version), "trying": "", "tries": ""}),
    }


def of_version(parts: Mapping[str, Path], version: int) -> Mapping[str, Path | str]:
    """The files of one version there. The UKI is last: with it UEFI begins to start the version."""
    folder = f"{VERSIONS}/{version}"
    return {
        **{f"{folder}/{name}": parts[name] for name in ("vmlinuz", "initrd", "cmdline")},
        uki_name(version): parts["linux.efi"],
    }


@dataclass(frozen=True)
class Contents:
    """Paths of the content of the partitions, for systemd-repart.

    core: GRUB's core. system: a file or device. esp: a folder; esp_image: a FAT image instead of
    it. seed: a folder with the first files of the state partition, "" for none.
    """

    core: str
    system: str
    esp: str = ""
    esp_image: str = ""
    seed: str = ""


def definitions(system: System, version: int, contents: Contents) -> Mapping[str, str]:
    """The repart.d(5) files by name."""
    state = {"CopyFiles": f"{contents.seed}:/"} if contents.seed else {}
    esp = {"Format": "vfat", "CopyFiles": f"{contents.esp}:/"}
    if contents.esp_image:
        esp = {"CopyBlocks": contents.esp_image}
    return {
        "05-grub.conf": _partition(
            Type=bios.PARTITION_TYPE, Label="keystone-grub", CopyBlocks=contents.core,
            **_exactly(1),
        ),
        "10-esp.conf": _partition(
            Type="esp", Label="keystone-esp", **esp, **_exactly(ESP_MIB),
        ),
        "20-slot.conf": _partition(
            Type="root-x86-64", Label=f"keystone-{version}", UUID=str(system.partition),
            CopyBlocks=contents.system, ReadOnly="yes", **_exactly(SLOT_MIB),
        ),
        "30-slot.conf": _partition(Type="root-x86-64", Label=FREE, **_exactly(SLOT_MIB)),
        "40-state.conf": _partition(
            Type="linux-generic", Label=STATE, Format="ext4", SizeMinBytes=f"{STATE_MIB}M",
            GrowFileSystem="yes", **state,
        ),
    }  # fmt: skip


def _exactly(mib: int) -> dict[str, str]:
    return {"SizeMinBytes": f"{mib}M", "SizeMaxBytes": f"{mib}M"}


def _partition(**settings: str) -> str:
    return "[Partition]\n" + "".join(f"{name}={value}\n" for name, value in settings.items())
