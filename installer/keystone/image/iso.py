"""Build the ISO, which starts by UEFI and by BIOS, as a CD, over virtual media and as a USB disk.

It contains the system's file, GRUB for BIOS, and a FAT image with the UKI. UEFI starts the UKI from
a CD (El Torito, UEFI 2.10, 13.3.2.1), and from a USB disk, since the same bytes are a partition
too. Equal input gives equal bytes: times, ids and names come from the recipe and its lock. The ISO
can carry further files: a site file, introductions, join.yaml, the bundle.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import ConfigurationError
from keystone.files import settle
from keystone.image import bios, release, steps
from keystone.image import freight as freights
from keystone.image.uki import PARTS
from keystone.sandbox import Inside, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.inputs import Inputs

VERSION = 6
"""Increased when this module makes a different ISO from the same input."""
MIB = 1 << 20
GRUB = "biosdisk iso9660 part_gpt part_msdos normal linux serial terminal echo test all_video gzio"
FIND = "search --file --set=root /keystone/{digest}.root\nset prefix=($root)/boot/grub\n"
# In /mnt/work; $1: size of the FAT image in MiB; $2: volume label; $3: FAT serial; $4: date of the
# volume (YYYYMMDDhhmmsscc); $5: file in /mnt/out; further: graft points of xorriso.
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
label=$2 date=$4 image=$5
shift 5
xorriso -as mkisofs -quiet -iso-level 3 -R -V "$label" --modification-date="$date" \\
    --set_all_file_dates "$date" \\
    --gpt_disk_guid modification-date \\
    --grub2-mbr /usr/lib/grub/i386-pc/boot_hybrid.img --protective-msdos-label \\
    -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \\
    -eltorito-alt-boot -e boot/efi.img -no-emul-boot -efi-boot-part --efi-boot-image \\
    -uid 0 -gid 0 -o "/mnt/out/$image" -graft-points /=iso "$@"
"""


def iso(inputs: Inputs) -> Path:
    """Build the ISO file, without further files on it."""
    materials, recipe = inputs.materials, inputs.recipe
    name = steps.key(
        "iso", VERSION, GRUB, MAKE, recipe.name, recipe.version, inputs.boot.name,
        inputs.system.digest, materials.epoch, inputs.tools.stack(),
    )  # fmt: skip

    def make(half: Path) -> None:
        _write(inputs, half, half / "image")

    return steps.step(name, "ISO", make) / "image"


def carrying(inputs: Inputs, freight: Path, output: Path) -> None:
    """Build an ISO at `output` with the files of the folder `freight` on it, below /keystone.

    It is not cached as a step, because it may contain a bundle of many gigabytes. Raises
    ConfigurationError for a file that is never read from a medium.
    """
    foreign = sorted({entry.name for entry in freight.iterdir()} - freights.FREIGHT)
    if foreign:
        raise ConfigurationError(
            f"{freight / foreign[0]}: a medium cannot carry this file",
            hint=f"it can carry {', '.join(sorted(freights.FREIGHT))}",
        )
    freights.require_valid(freight)
    output.parent.mkdir(parents=True, exist_ok=True)
    half = output.with_name(f"{output.name}.part")
    work = steps.home() / f"carry.{os.getpid()}"
    try:
        with log.step("ISO with further files"):
            secret = bool(freights.SECRETS & {entry.name for entry in freight.iterdir()})
            half.unlink(missing_ok=True)
            half.touch(0o600 if secret else 0o644)
            _write(inputs, work, half, freight)
            if secret:
                log.warn(f"{output} contains private keys or tokens: store it as safely as those")
            settle(half, output)
    finally:
        half.unlink(missing_ok=True)
        steps.remove(work)


def _write(inputs: Inputs, folder: Path, image: Path, freight: Path | None = None) -> None:
    """Build the ISO as `image`, with `folder` for temporary files."""
    recipe, boot, system = inputs.recipe, inputs.boot, inputs.system
    work = folder / "work"
    (work / "iso/boot/grub").mkdir(parents=True)
    os.link(boot / "linux.efi", work / "linux.efi")
    # A disk is written from these files; the UKI is in the FAT image.
    for file in set(PARTS) - {"linux.efi"}:
        os.link(boot / file, work / "iso/boot" / file)
    for certificate in boot.glob("*.cer"):  # for enrolment in the firmware's menu
        os.link(certificate, work / certificate.name)
    (work / "find.cfg").write_text(FIND.format(digest=system.digest))
    (work / "iso/boot" / release.SUMS).write_text(release.of(boot))
    title = f"Keystone {recipe.name} {recipe.version}"
    menu = bios.menu(title, "/boot", (boot / "cmdline").read_text())
    (work / "iso/boot/grub/grub.cfg").write_text(menu)
    size = -(-(boot / "linux.efi").stat().st_size // MIB) + 4
    date = inputs.materials.lock.created.strftime("%Y%m%d%H%M%S00")
    label = f"KEYSTONE_{recipe.name.upper().replace('-', '_')}_{recipe.version}"[:32]
    binds: dict[str, Path | Tree] = {
        "work": work, "out": image.parent.resolve(), "system": system.file.parent,
        **({"freight": freight.resolve()} if freight else {}),
    }  # fmt: skip
    grafts = [f"/keystone/{system.digest}.root=/mnt/system/{system.file.name}"]
    if freight:
        grafts += [f"/keystone/{path.name}=/mnt/freight/{path.name}" for path in freight.iterdir()]
    words = [str(max(size, 40)), label, system.digest[:8], date, image.name, *sorted(grafts)]
    env = {**inputs.materials.env, "GRUB": GRUB}
    Inside(inputs.tools, None, binds, env).run(["sh", "-euc", MAKE, "iso", *words])
    steps.remove(work)
