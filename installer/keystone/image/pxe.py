"""Files for network boot: what iPXE fetches over HTTP, in a tar file to unpack where it is served.

The kernel and its initrd, the installer medium, which the initrd fetches whole, and the script that
starts them (ipxe.org, "scripting"). Addresses are relative to the script: it may lie anywhere. The
kernel's command line alone needs its whole address, and an old iPXE does not say it: there it is
`url` where someone set that, else what DHCP named, or the address of the Primer
(appliance/netboot.py). The tar file is in the one dialect that bundle/formats/tar.py has:
netboot.py takes it apart strictly. GNU tar would not do: its version 1.35 writes other USTAR
headers than 1.34.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, BinaryIO

from keystone.bundle.formats import tar
from keystone.image import iso, steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.image.inputs import Pieces

VERSION = 3
SCRIPT = """#!ipxe
isset ${{cwuri}} && set url ${{cwuri}} ||
isset ${{url}} || set url {else_url} ||
isset ${{url}} || goto lost
kernel vmlinuz {cmdline} ip=dhcp {url} initrd=initrd || goto failed
initrd initrd || goto failed
boot
:failed
echo Keystone {name} {version}: a file beside this script cannot be fetched
shell
:lost
echo Keystone {name} {version}: this iPXE does not say where the script is. Before it:
echo set url http://.../boot.ipxe
shell
"""
SITE = "site.yaml"
FILES = ("boot.ipxe", "vmlinuz", "initrd", "medium.iso")
URL = "keystone.url=${url}"
"""On the kernel's command line in the script; a site file is named after it (with_site)."""
DHCP_URL = "${filename}"
"""What is taken for the script's address where iPXE does not say it (served_at)."""


def script(name: str, version: int, cmdline: str) -> str:
    """boot.ipxe: fetch kernel and initrd from where it lies itself, and start them."""
    return SCRIPT.format(cmdline=cmdline, name=name, version=version, url=URL, else_url=DHCP_URL)


def served_at(text: str, url: str) -> str:
    """The script as it is served at this URL."""
    return text.replace(DHCP_URL, url, 1)


def with_site(text: str, digest: str) -> str:
    """The script for machines that follow the site file beside it. digest: its SHA-256, in hex."""
    return text.replace(URL, f"{URL} keystone.site={SITE} keystone.sitehash={digest}", 1)


def pxe(pieces: Pieces) -> Path:
    """The tar file with FILES."""
    medium, recipe = iso.iso(pieces), pieces.recipe
    text = script(recipe.name, recipe.version, (pieces.boot / "cmdline").read_text())
    name = steps.key("pxe", VERSION, text, medium.parent.name, pieces.materials.epoch)

    def make(half: Path) -> None:
        places = (half / "boot.ipxe", pieces.boot / "vmlinuz", pieces.boot / "initrd", medium)
        places[0].write_text(text)
        with (half / "image").open("xb") as target:
            pack(places, target, pieces.materials.epoch)
        places[0].unlink()

    return steps.step(name, "files for network boot", make) / "image"


def pack(places: Sequence[Path], target: BinaryIO, mtime: int) -> None:
    """A tar file of FILES, whose content lies in these places. mtime: in seconds since 1970."""
    for name, place in zip(FILES, places, strict=True):
        size = place.stat().st_size
        target.write(tar.header(tar.Member(name, size, mtime=mtime)))
        with place.open("rb") as source:
            shutil.copyfileobj(source, target)
        target.write(bytes(tar.padded(size) - size))
    target.write(bytes(tar.end_bytes(target.tell())))
