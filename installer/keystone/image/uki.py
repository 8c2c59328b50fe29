"""What firmware starts: one unified kernel image, and the same kernel for BIOS.

A UKI (UAPI Group, systemd-stub(7)) is kernel, initrd and command line in one file that can be
signed; the same one starts a medium and a disk. BIOS cannot read it: GRUB loads its parts, from a
medium (iso.py) and from a disk, whose GRUB is here too.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from keystone.image import bios, pcr, steps
from keystone.sandbox import Inside, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.inputs import Pieces
    from keystone.image.recipe import Recipe
    from keystone.image.rootfs import Materials
    from keystone.image.secureboot import Keys
    from keystone.image.squashfs import System

VERSION = 2
LOADER = "systemd-boot.efi"
PARTS = ("linux.efi", LOADER, "vmlinuz", "initrd", "cmdline", "boot.img", "core.img")
"""For UEFI; for BIOS; and GRUB for a disk that a BIOS starts."""
REGISTER = "pcr11"
"""Of the unified kernel image: what a TPM that measured it says (pcr.py)."""
GRUB = "/usr/lib/grub/i386-pc"
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
SYSTEMD_BOOT = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
DB = ("--private-key=/mnt/keys/db.key", "--certificate=/mnt/keys/db.pem")
SIGN = ("/usr/lib/systemd/systemd-sbsign", "sign", *DB)
# The kernel inside is started by the stub, which vouches for it: it needs no signature of its own.
SIGNED = (
    "--no-sign-kernel", "--signtool=systemd-sbsign", "--secureboot-private-key=/mnt/keys/db.key",
    "--secureboot-certificate=/mnt/keys/db.pem",
)  # fmt: skip


def boot_files(
    materials: Materials,
    recipe: Recipe,
    tools: Tree,
    kernel: Path,
    system: System,
    keys: Keys | None,
) -> Path:
    """The folder with PARTS, REGISTER and, with keys, their certificates.

    kernel: the folder that rootfs.initramfs made. keys: what signs, or None.
    """
    words = (
        "boot=keystone", *system.options(), f"keystone.version={recipe.version}",
        *recipe.kernel_options,
    )  # fmt: skip
    name = steps.key(
        "boot", VERSION, kernel.name, words, recipe.version, tools.stack(), bios.MODULES,
        bios.EARLY, keys and keys.digest,
    )  # fmt: skip

    def make(half: Path) -> None:
        for file in ("vmlinuz", "initrd"):
            shutil.copyfile(kernel / file, half / file)
        (half / "cmdline").write_text(" ".join(words))
        (half / "os-release").write_text(
            f"ID=keystone-{recipe.name}\nNAME=Keystone\nPRETTY_NAME=Keystone {recipe.name} "
            f"{recipe.version}\nVERSION_ID={recipe.version}\n"
        )
        (half / "early.cfg").write_text(bios.EARLY)
        binds = {"boot": half, **({"keys": keys.folder} if keys else {})}
        inside = Inside(tools, None, binds, materials.env)
        inside.run(["cp", f"{GRUB}/boot.img", "/mnt/boot"])
        inside.run([
            "grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-p", "/keystone",
            "-c", "/mnt/boot/early.cfg", "-o", "/mnt/boot/core.img", *bios.MODULES,
        ])  # fmt: skip
        inside.run([
            "ukify", "build", "--linux=/mnt/boot/vmlinuz", "--initrd=/mnt/boot/initrd",
            "--cmdline=@/mnt/boot/cmdline", "--os-release=@/mnt/boot/os-release",
            f"--uname={(kernel / 'release').read_text()}", f"--stub={STUB}",
            "--output=/mnt/boot/linux.efi", *(SIGNED if keys else ()),
        ])  # fmt: skip
        shown = inside.run(["ukify", "inspect", "/mnt/boot/linux.efi", "--json=short", "--all"])
        (half / REGISTER).write_text(pcr.register(shown.stdout))
        _loader(inside, half, keys)

    return steps.step(name, "kernel, initrd and command line in one file", make)


def _loader(inside: Inside, half: Path, keys: Keys | None) -> None:
    """systemd-boot, signed when there are keys, whose certificates go beside it."""
    if keys is None:
        inside.run(["cp", SYSTEMD_BOOT, f"/mnt/boot/{LOADER}"])
        return
    inside.run([*SIGN, f"--output=/mnt/boot/{LOADER}", SYSTEMD_BOOT])
    for certificate in keys.folder.glob("*.cer"):
        shutil.copyfile(certificate, half / certificate.name)


def uki(pieces: Pieces) -> Path:
    """The unified kernel image: it starts the system of its root hash, on a disk or a medium."""
    return pieces.boot / "linux.efi"
