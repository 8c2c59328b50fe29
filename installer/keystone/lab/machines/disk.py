"""Make disks for machines: a bootable UEFI disk from a root folder, and a stick with files.

mke2fs fills the file system from a folder (-d), mtools fills the EFI system partition, sfdisk
writes the partition table, so that no mount and no loop device is needed.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import UsageError
from keystone.files import half_made, settle
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYOUT_VERSION = "2"
"""Input of the base image's hash: increase it when this module or base.py makes another disk."""

MIB = 1 << 20
FIRST_MIB = 1
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
"""GPT type GUIDs: UEFI 2.10, 5.3.3, and the Discoverable Partitions Specification (x86-64 root)."""
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
ROOT_LABEL = "debian-root"
STICK_LABEL = "KEYSTONE"


@dataclass(frozen=True)
class Layout:
    """Sizes of the system disk, and kernel options."""

    disk_gib: int
    esp_mib: int
    kernel_options: tuple[str, ...]

    @property
    def root_mib(self) -> int:
        """Offset of the root partition in MiB."""
        return FIRST_MIB + self.esp_mib

    @property
    def root_size_mib(self) -> int:
        """Size of the root partition in MiB: up to the last MiB, which has the backup table."""
        return self.disk_gib * 1024 - self.root_mib - 1

    def table(self) -> str:
        """The partition table, as input of sfdisk(8)."""
        return (
            "label: gpt\nunit: sectors\nsector-size: 512\n"
            f"start={FIRST_MIB}MiB, size={self.esp_mib}MiB, type={ESP_TYPE}, name=esp\n"
            f"start={self.root_mib}MiB, size={self.root_size_mib}MiB, type={ROOT_TYPE}, name=root\n"
        )

    def entry(self, kernel: str) -> str:
        """The boot entry (Boot Loader Specification, type 1)."""
        options = " ".join((f"root=LABEL={ROOT_LABEL}", "rw", *self.kernel_options))
        return (
            f"title Debian\nversion {kernel}\nlinux /vmlinuz\ninitrd /initrd.img\n"
            f"options {options}\n"
        )


def make(root: Path, target: Path, kernel: str, layout: Layout) -> None:
    """Write the system disk of the tree `root` to `target`, a sparse raw file."""
    half = target.with_suffix(".partial")
    half.unlink(missing_ok=True)
    with half.open("wb") as file:
        file.truncate(layout.disk_gib * 1024 * MIB)
    run(["sfdisk", "--quiet", half], data=layout.table())
    _ext4(root, half, ROOT_LABEL, layout.root_size_mib, offset_mib=layout.root_mib)
    _fill_esp(root, half, kernel, layout)
    settle(half, target)


def usb_stick(files: Sequence[Path], target: Path) -> Path:
    """Make an ext4 image labelled KEYSTONE with `files` in its top folder; returns `target`.

    It is ext4 because a bundle is larger than 4 GiB, the limit of a file on FAT. Files are
    hard-linked into a folder for mke2fs if on the same file system, else copied.
    """
    total = sum(path.stat().st_size for path in files)
    size_mib = total * 102 // 100 // MIB + 64
    half = target.with_suffix(".partial")
    half.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        half_made(half, target),
        log.step(f"USB stick {target.name}: {log.size(total)}"),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".stick-") as folder,
    ):
        for path in files:
            _place(path.resolve(), Path(folder) / path.name)
        with half.open("wb") as file:
            file.truncate(size_mib * MIB)
        _ext4(Path(folder), half, STICK_LABEL, size_mib, journal=False)
    settle(half, target)
    return target


def _place(source: Path, target: Path) -> None:
    if target.exists():
        raise UsageError(f"{source}: another file of the stick has the same name")
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)
        target.chmod(source.stat().st_mode & 0o777)


def _ext4(
    tree: Path, image: Path, label: str, size_mib: int, *, offset_mib: int = 0, journal: bool = True
) -> None:
    features = [] if journal else ["-O", "^has_journal", "-m", "0"]
    run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *features,
            "-E", f"offset={offset_mib * MIB},root_owner=0:0",
            "-d", tree, image, f"{size_mib}M",
        ],
        timeout=1800,
    )  # fmt: skip


def _fill_esp(root: Path, image: Path, kernel: str, layout: Layout) -> None:
    loader = root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    volume = f"{image}@@{FIRST_MIB}M"
    clusters = layout.esp_mib * MIB // 512
    run(["mformat", "-i", volume, "-F", "-v", "ESP", "-T", str(clusters), "-h", "64", "-s", "32"])
    run(["mmd", "-i", volume, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"])
    with tempfile.TemporaryDirectory() as folder:
        entry, menu = Path(folder) / "debian.conf", Path(folder) / "loader.conf"
        entry.write_text(layout.entry(kernel))
        menu.write_text("timeout 0\n")
        for source, place in (
            (loader, "::/EFI/BOOT/BOOTX64.EFI"),
            (root / f"boot/vmlinuz-{kernel}", "::/vmlinuz"),
            (root / f"boot/initrd.img-{kernel}", "::/initrd.img"),
            (entry, "::/loader/entries/debian.conf"),
            (menu, "::/loader/loader.conf"),
        ):
            run(["mcopy", "-i", volume, source, place])
