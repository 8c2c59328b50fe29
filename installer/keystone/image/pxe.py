"""Build the files for network boot: a tar file to unpack on the HTTP server of iPXE.

It contains the kernel, its initrd, the installer medium, which the initrd fetches, and the script
that starts them (ipxe.org, "scripting"). URLs are relative to the script, so the files can be
served anywhere. Only the kernel command line needs the absolute URL of the script, which an old
iPXE does not provide: then it is the setting `url`, else the file name from DHCP, or the URL at the
Primer that serves the script (appliance/netboot.py). The tar file has the format of
bundle/formats/tar.py, which netboot.py parses strictly. GNU tar is not used, because its version
1.35 writes other USTAR headers than 1.34.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, BinaryIO

from keystone.bundle.formats import tar
from keystone.image import iso, steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.image.inputs import Inputs

VERSION = 3
SCRIPT = """#!ipxe
isset ${{cwuri}} && set url ${{cwuri}} ||
isset ${{url}} || set url {else_url} ||
isset ${{url}} || goto lost
kernel vmlinuz {cmdline} ip=dhcp {url} initrd=initrd || goto failed
initrd initrd || goto failed
boot
:failed
echo Keystone {name} {version}: cannot fetch vmlinuz or initrd next to this script
shell
:lost
echo Keystone {name} {version}: this iPXE does not provide the URL of this script. Set it first:
echo set url http://.../boot.ipxe
shell
"""
SITE = "site.yaml"
FILES = ("boot.ipxe", "vmlinuz", "initrd", "medium.iso")
URL = "keystone.url=${url}"
"""Kernel option in the script; `with_site` adds the site file after it."""
DHCP_URL = "${filename}"
"""The script's URL if iPXE does not provide it; `served_at` replaces it."""


def script(name: str, version: int, cmdline: str) -> str:
    """The text of boot.ipxe: fetch kernel and initrd next to this script, and start them."""
    return SCRIPT.format(cmdline=cmdline, name=name, version=version, url=URL, else_url=DHCP_URL)


def served_at(text: str, url: str) -> str:
    """The script with the URL at which it is served."""
    return text.replace(DHCP_URL, url, 1)


def with_site(text: str, digest: str) -> str:
    """The script with the site file next to it. digest: SHA-256 of that file, in hex."""
    return text.replace(URL, f"{URL} keystone.site={SITE} keystone.sitehash={digest}", 1)


def pxe(inputs: Inputs) -> Path:
    """Build the tar file with FILES."""
    medium, recipe = iso.iso(inputs), inputs.recipe
    text = script(recipe.name, recipe.version, (inputs.boot / "cmdline").read_text())
    name = steps.key("pxe", VERSION, text, medium.parent.name, inputs.materials.epoch)

    def make(half: Path) -> None:
        places = (half / "boot.ipxe", inputs.boot / "vmlinuz", inputs.boot / "initrd", medium)
        places[0].write_text(text)
        with (half / "image").open("xb") as target:
            pack(places, target, inputs.materials.epoch)
        places[0].unlink()

    return steps.step(name, "files for network boot", make) / "image"


def pack(places: Sequence[Path], target: BinaryIO, mtime: int) -> None:
    """Write a tar file of FILES with the content at these paths. mtime: in seconds since 1970."""
    for name, place in zip(FILES, places, strict=True):
        size = place.stat().st_size
        target.write(tar.header(tar.Member(name, size, mtime=mtime)))
        with place.open("rb") as source:
            shutil.copyfileobj(source, target)
        target.write(bytes(tar.padded(size) - size))
    target.write(bytes(tar.end_bytes(target.tell())))
