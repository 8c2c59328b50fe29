"""The ISO: starts by UEFI and by BIOS, as a CD, over virtual media and from a USB disk.

It holds the system's file, a FAT image with the UKI, which UEFI starts from CD (El Torito, UEFI
2.10, 13.3.2.1) and, as the same bytes are a partition too, from a USB disk, and GRUB for BIOS.
Equal input gives equal bytes: times, ids and names are the recipe's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keystone.image import bios, steps
from keystone.image.boot import PARTS
from keystone.image.sandbox import Inside

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.pieces import Pieces

VERSION = 1
MIB = 1 << 20
GRUB = "biosdisk iso9660 part_gpt part_msdos normal linux serial terminal echo test all_video gzio"
FIND = "search --file --set=root /keystone/{digest}.root\nset prefix=($root)/boot/grub\n"
# In /mnt/work; $1: size of the FAT image in MiB; $2: volume label; $3: FAT serial; $4: date of the
# volume (YYYYMMDDhhmmsscc).
MAKE = """
cd /mnt/work
efi=iso/boot/efi.img
truncate -s "${1}M" $efi
mformat -i $efi -F -N "$3" ::
mmd -i $efi ::/EFI ::/EFI/BOOT
mcopy -i $efi linux.efi ::/EFI/BOOT/BOOTX64.EFI
for certificate in *.cer; do
    [ ! -e "$certificate" ] || mcopy -i $efi "$certificate" ::/
done
grub-mkimage -O i386-pc-eltorito -d /usr/lib/grub/i386-pc -p /boot/grub -c find.cfg \\
    -o iso/boot/grub/bios.img search search_fs_file $GRUB
find iso -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
xorriso -as mkisofs -quiet -iso-level 3 -R -V "$2" --modification-date="$4" \\
    --gpt_disk_guid modification-date \\
    --grub2-mbr /usr/lib/grub/i386-pc/boot_hybrid.img --protective-msdos-label \\
    -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \\
    -eltorito-alt-boot -e boot/efi.img -no-emul-boot -efi-boot-part --efi-boot-image \\
    -uid 0 -gid 0 -o /mnt/out/image iso
"""


def iso(pieces: Pieces) -> Path:
    """The ISO file."""
    materials, recipe, tools = pieces.materials, pieces.recipe, pieces.tools
    boot, system = pieces.boot, pieces.system
    name = steps.key(
        "iso", VERSION, GRUB, MAKE, recipe.name, recipe.version, boot.name, system.digest,
        materials.epoch, tools.stack(),
    )  # fmt: skip

    def make(half: Path) -> None:
        work = half / "work"
        (work / "iso/keystone").mkdir(parents=True)
        (work / "iso/boot/grub").mkdir(parents=True)
        os.link(system.file, work / f"iso/keystone/{system.digest}.root")
        os.link(boot / "linux.efi", work / "linux.efi")
        # All but the UKI, which is in the FAT image: what a disk is written from.
        for file in set(PARTS) - {"linux.efi"}:
            os.link(boot / file, work / "iso/boot" / file)
        for certificate in boot.glob("*.cer"):  # to enrol from the firmware's menu
            os.link(certificate, work / certificate.name)
        (work / "find.cfg").write_text(FIND.format(digest=system.digest))
        title = f"Keystone {recipe.name} {recipe.version}"
        (work / "iso/boot/grub/grub.cfg").write_text(
            bios.menu(title, "/boot", (boot / "cmdline").read_text())
        )
        size = -(-(boot / "linux.efi").stat().st_size // MIB) + 4
        date = materials.lock.created.strftime("%Y%m%d%H%M%S00")
        label = f"KEYSTONE_{recipe.name.upper().replace('-', '_')}_{recipe.version}"[:32]
        Inside(tools, None, {"work": work, "out": half}, {**materials.env, "GRUB": GRUB}).run(
            ["sh", "-euc", MAKE, "iso", str(max(size, 40)), label, system.digest[:8], date]
        )
        steps.remove(work)

    return steps.step(name, "ISO", make) / "image"
