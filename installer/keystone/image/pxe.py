"""Files for network boot: what iPXE fetches over HTTP, in a tar file to unpack where it is served.

The kernel and its initrd, the installer medium, which the initrd fetches whole, and the script that
starts them (ipxe.org, "scripting"). Addresses are relative to the script: it may lie anywhere. The
tar file is in the one dialect that bundle/tar.py reads: serve.py takes it apart strictly.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from keystone.image import iso, steps
from keystone.image.sandbox import Inside

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.pieces import Pieces

VERSION = 1
SCRIPT = """#!ipxe
kernel vmlinuz {cmdline} ip=dhcp keystone.url=${{cwuri}} initrd=initrd || goto failed
initrd initrd || goto failed
boot
:failed
echo Keystone {name} {version}: a file beside this script cannot be fetched
shell
"""
FILES = ("boot.ipxe", "vmlinuz", "initrd", "medium.iso")
PACK = (
    "cd /mnt/out/files; chmod 644 *; tar --format=ustar --owner=0 --group=0 --numeric-owner"
    f" --mtime=@$SOURCE_DATE_EPOCH -cf ../image {' '.join(FILES)}"
)


def script(name: str, version: int, cmdline: str) -> str:
    """boot.ipxe: fetch kernel and initrd from where it lies itself, and start them."""
    return SCRIPT.format(cmdline=cmdline, name=name, version=version)


def pxe(pieces: Pieces) -> Path:
    """The tar file with FILES."""
    medium, recipe = iso.iso(pieces), pieces.recipe
    text = script(recipe.name, recipe.version, (pieces.boot / "cmdline").read_text())
    name = steps.key("pxe", VERSION, PACK, text, medium.parent.name, pieces.tools.stack())

    def make(half: Path) -> None:
        folder = half / "files"
        folder.mkdir()
        (folder / "boot.ipxe").write_text(text)
        for file in ("vmlinuz", "initrd"):
            shutil.copyfile(pieces.boot / file, folder / file)
        os.link(medium, folder / "medium.iso")
        Inside(pieces.tools, None, {"out": half}, pieces.materials.env).run(["sh", "-euc", PACK])
        shutil.rmtree(folder)

    return steps.step(name, "files for network boot", make) / "image"
