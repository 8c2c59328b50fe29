"""The system disk: what starts it, two slots for the system, and the state apart.

    (GRUB)           for a BIOS; UEFI does not look at it
    keystone-esp     what firmware starts: a unified kernel image for each slot, and its parts
    keystone-<n>     the slot of version n; its PARTUUID is the first half of the root hash
    _empty           the other slot, for the next version
    keystone-state   all that is written: it fills the disk

Written by systemd-repart(8), the partition table last: a disk on which that was cut has none, so
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
"""What a disk must have at least: the partitions, and what tables and alignment take."""
STATE = "keystone-state"
LOADER_CONF = "timeout 3\nconsole-mode keep\neditor no\n"
"""Of systemd-boot, loader.conf(5)."""
TRIES = bios.TRIES
"""How often a new version is started before the one before it comes back."""
REMOVABLE = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from media and disks that it has no entry for (UEFI 2.10, 3.5.1.1)."""
VERSIONS = "keystone"
GRUB_MENU, GRUB_ENVIRONMENT = "keystone/grub.cfg", bios.ENVIRONMENT.removeprefix("/")
FREE = "_empty"
"""Label of a slot that nothing is in (systemd-sysupdate(8))."""


def uki_name(version: int, tries: int = TRIES) -> str:
    """The unified kernel image's place in the ESP; systemd-boot counts down what is after the +.

    See Automatic Boot Assessment in the UAPI Group's Boot Loader Specification.
    """
    return f"EFI/Linux/keystone_{version}+{tries}.efi"


def esp(parts: Mapping[str, Path], version: int) -> Mapping[str, Path | str]:
    """What the EFI system partition holds at first: a file to copy, or text, by path.

    parts: boot.PARTS, each where it is.
    """
    return {
        REMOVABLE: parts["systemd-boot.efi"],
        "loader/loader.conf": LOADER_CONF,
        **of_version(parts, version),
        GRUB_MENU: bios.slots({version: parts["cmdline"].read_text()}),
        GRUB_ENVIRONMENT: bios.environment({"good": str(version), "trying": "", "tries": ""}),
    }


def of_version(parts: Mapping[str, Path], version: int) -> Mapping[str, Path | str]:
    """What one version has in it. The UKI is the last: under UEFI a version begins with it."""
    folder = f"{VERSIONS}/{version}"
    return {
        **{f"{folder}/{name}": parts[name] for name in ("vmlinuz", "initrd", "cmdline")},
        uki_name(version): parts["linux.efi"],
    }


@dataclass(frozen=True)
class Contents:
    """Where systemd-repart reads what goes into the partitions.

    core: GRUB's, in its place. system: a file or device. esp: a folder, or a FAT image of the
    partition. seed: a folder that the state begins with.
    """

    core: str
    system: str
    esp: str = ""
    esp_image: str = ""
    seed: str = ""


def definitions(system: System, version: int, contents: Contents) -> Mapping[str, str]:
    """repart.d files by name."""
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
