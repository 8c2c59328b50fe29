"""Installer media and network boot files of a few bytes, and fakes of the programs that read them.

So test machines need neither ISO 9660 nor veritysetup: a medium is a tar file that a fake `mount`
unpacks, its EFI partition is another tar file, and its root hash is the SHA-256 of the system.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone.image import disk_layout, pxe, release
from keystone.image.uki import PARTS
from keystone.run import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FAKES = {
    "mount": 'exec tar -xf "$5" -C "$6"',
    "umount": "exit 0",
    "veritysetup": 'file=$3 digest=$5\necho "$digest  $file" | sha256sum --check --quiet',
}


def fakes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create fake programs in a folder that precedes the machine's on PATH."""
    folder.mkdir()
    for name, script in FAKES.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{folder}:/usr/bin:/bin")


@dataclass(frozen=True)
class Builder:
    """Makes the files of `image build --format pxe`, for a system of a few bytes."""

    folder: Path

    def files(self, system: bytes = b"one") -> Path:
        """Create the four files of a system in a folder."""
        digest = hashlib.sha256(b"system " + system).hexdigest()
        line = f"boot=keystone keystone.root={digest} keystone.tree=4096 keystone.version=2"
        place = self.folder / digest[:8]
        tree, files = place / "tree", place / "files"
        for folder in (tree / "boot", tree / "keystone", files):
            folder.mkdir(parents=True)
        for part in PARTS:
            (tree / "boot" / part).write_bytes(part.encode() + system)
        (tree / "boot/cmdline").write_text(line)
        (tree / "boot" / release.SUMS).write_text(release.of(tree / "boot"))
        uki = place / "efi" / disk_layout.REMOVABLE
        uki.parent.mkdir(parents=True)
        (tree / "boot" / release.UKI).rename(uki)
        run(["tar", "-cf", tree / "boot/efi.img", "-C", place / "efi", "."])
        (tree / f"keystone/{digest}.root").write_bytes(b"system " + system)
        for part in ("vmlinuz", "initrd"):
            shutil.copyfile(tree / "boot" / part, files / part)
        (files / "boot.ipxe").write_text(pxe.script("primer", 2, line))
        run(["tar", "-cf", files / "medium.iso", "-C", tree, "."])
        return files

    def packed(self, files: Path) -> Path:
        """Pack them into a tar file."""
        made = files.parent / "image"
        with made.open("wb") as target:
            pxe.pack([files / name for name in pxe.FILES], target, 1)
        return made
