"""Verify an installer medium, an ISO file or the stick it was written to, before it is used.

A machine that starts from the medium does the same by itself (write.check_medium). Here it is done
at a desk beforehand, and the release can be compared with the one that the packager gave.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import upgrade, write
from keystone.errors import DamagedBundleError, PreflightError, UntrustedBundleError
from keystone.image import freight, release
from keystone.run import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILESYSTEMS = Path("/proc/filesystems")
"""The file systems that the kernel can mount (proc(5))."""


@dataclass(frozen=True)
class Checked:
    """A verified medium. system: its root hash, release: the digest of release.py, both in hex.

    carries: names of further files on it, which the release does not cover.
    """

    version: int
    system: str
    release: str
    carries: tuple[str, ...]

    def describe(self) -> str:
        """Lines of text for people."""
        lines = [
            f"system     version {self.version}",
            f"release    {self.release}",
            f"root hash  {self.system}",
        ]
        if self.carries:
            lines.append(f"carries    {', '.join(self.carries)}: not part of the release")
        return "\n".join(lines)


def verify(image: Path, named: str = "") -> Checked:
    """Verify everything that a machine starts from a medium. Needs root.

    image: an ISO file or a device. named: the release that the packager gave out of band; "" for
    none. Raises DamagedBundleError with the place of the damage, UntrustedBundleError for another
    release, PreflightError if this machine cannot mount the medium.
    """
    with _mounted(image) as place, log.step(f"read {image}"):
        offer = upgrade.offered(place)
        listed = release.check(place / "boot")
        write.verify(offer.system, offer.system.file)
        found = {entry.name for entry in (place / "keystone").iterdir()} & freight.FREIGHT
    digest = release.digest(listed)
    if named and named != digest:
        raise UntrustedBundleError(
            f"{image}: complete, but its release is {digest}, not {named}",
            hint="do not use it; ask the packager for the release out of band, not on this medium",
        )
    return Checked(offer.version, offer.system.digest, digest, tuple(sorted(found)))


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise PreflightError(
            f"{image}: mounting a medium needs root", hint="run the command with sudo, or as root"
        )
    try:
        with upgrade.medium_of(image) as place:
            yield place
    except CommandError as error:
        # mount(8) has tried to load the kernel module by now.
        if upgrade.MEDIUM not in FILESYSTEMS.read_text().split():
            raise PreflightError(
                f"{image}: not verified, because the kernel of this machine does not support "
                f"{upgrade.MEDIUM}",
                hint="run `modprobe isofs`, or verify the medium on another machine",
            ) from error
        raise DamagedBundleError(
            f"{image}: not an installer medium, or damaged: {error.message}",
            hint="name the ISO file, or the whole disk it was written to (not a partition)",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedBundleError(f"{image}: {error}", hint=release.COPY) from error
