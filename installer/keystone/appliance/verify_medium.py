"""An installer medium, its file or the stick that it was written to, read whole before it is used.

A machine that starts from it does the same by itself (write.check_medium); here it is done at a
desk, before anybody walks, and the release is compared with what the makers said.
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
"""What the kernel can mount (proc(5))."""


@dataclass(frozen=True)
class Checked:
    """A medium that is whole. system: its root hash. release: its digest (release.py). Both hex.

    carries: names of what rides on it, which the release says nothing of.
    """

    version: int
    system: str
    release: str
    carries: tuple[str, ...]

    def describe(self) -> str:
        """Lines for people."""
        lines = [
            f"system     version {self.version}",
            f"release    {self.release}",
            f"root hash  {self.system}",
        ]
        if self.carries:
            lines.append(f"carries    {', '.join(self.carries)}: not part of the release")
        return "\n".join(lines)


def verify(image: Path, named: str = "") -> Checked:
    """Read all that a machine starts from a medium. image: an ISO file or a device; needs root.

    named: the release, as its makers told it by another way; "" for none.

    Raises DamagedBundleError with the place, UntrustedBundleError for another release,
    PreflightError where this machine cannot look.
    """
    with _opened(image) as place, log.step(f"read {image}"):
        offer = upgrade.offered(place)
        listed = release.check(place / "boot")
        write.verify(offer.system, offer.system.file)
        found = {entry.name for entry in (place / "keystone").iterdir()} & freight.FREIGHT
    digest = release.digest(listed)
    if named and named != digest:
        raise UntrustedBundleError(
            f"{image}: whole, but its release is {digest}, not {named}",
            hint="do not use it; ask its makers for the release, by another way than this medium",
        )
    return Checked(offer.version, offer.system.digest, digest, tuple(sorted(found)))


@contextmanager
def _opened(image: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise PreflightError(
            f"{image}: only root may look into a medium", hint="run it with sudo, or as root"
        )
    try:
        with upgrade.medium_of(image) as place:
            yield place
    except CommandError as error:
        # mount(8) has asked for the module by now.
        if upgrade.MEDIUM not in FILESYSTEMS.read_text().split():
            raise PreflightError(
                f"{image}: the kernel of this machine does not know {upgrade.MEDIUM}, so nothing "
                "is said of the medium",
                hint="modprobe isofs, or do it on another machine",
            ) from error
        raise DamagedBundleError(
            f"{image}: not an installer medium, or damaged: {error.message}",
            hint="give the ISO file, or the disk that it was written to (not a partition of it)",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedBundleError(f"{image}: {error}", hint=release.COPY) from error
