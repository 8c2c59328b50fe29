"""Build the boot files: a unified kernel image for UEFI, and the same kernel with GRUB for BIOS.

A UKI (UAPI Group, systemd-stub(7)) is kernel, initrd and command line in one file that can be
signed; the same UKI starts a medium and a disk. A BIOS cannot start it: there GRUB loads kernel and
initrd, from a medium (iso.py) or from a disk, whose GRUB is built here.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from keystone.image import bios, pcr, steps
from keystone.sandbox import Inside, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.inputs import Inputs
    from keystone.image.recipe import Recipe
    from keystone.image.rootfs import Materials
    from keystone.image.secureboot import Keys
    from keystone.image.squashfs import System

VERSION = 2
LOADER = "systemd-boot.efi"
PARTS = ("linux.efi", LOADER, "vmlinuz", "initrd", "cmdline", "boot.img", "core.img")
"""Two for UEFI, three for GRUB to load, and GRUB itself for a disk that a BIOS starts."""
REGISTER = "pcr11"
"""File with the value of PCR 11 of a TPM that measured the UKI (pcr.py)."""
GRUB = "/usr/lib/grub/i386-pc"
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
SYSTEMD_BOOT = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
DB = ("--private-key=/mnt/keys/db.key", "--certificate=/mnt/keys/db.pem")
SIGN = ("/usr/lib/systemd/systemd-sbsign", "sign", *DB)
# The signed stub starts the kernel inside, so the kernel needs no signature of its own.
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
    """Build a folder with PARTS, REGISTER and, if there are keys, their certificates.

    kernel: the folder of rootfs.initramfs. keys: sign with them, unless None.
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
    """Add systemd-boot, and with keys sign it and add their certificates."""
    if keys is None:
        inside.run(["cp", SYSTEMD_BOOT, f"/mnt/boot/{LOADER}"])
        return
    inside.run([*SIGN, f"--output=/mnt/boot/{LOADER}", SYSTEMD_BOOT])
    for certificate in keys.folder.glob("*.cer"):
        shutil.copyfile(certificate, half / certificate.name)


def uki(inputs: Inputs) -> Path:
    """The unified kernel image: it starts the system with its root hash, on a disk or medium."""
    return inputs.boot / "linux.efi"
