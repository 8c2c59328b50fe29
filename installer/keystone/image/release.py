"""The release: a digest over every byte that a version of an image starts.

It is the SHA-256 of a list in the format of sha256sum(1), with each boot file. One of these files,
the command line, has the root hash of the system. A medium carries the list as boot/SHA256SUMS,
which by itself only detects damage: people compare the release out of band.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import DamagedBundleError
from keystone.image import disk_layout
from keystone.image.mounts import mounted
from keystone.image.uki import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUMS = "SHA256SUMS"
UKI = "linux.efi"
COPY = "use another copy of the medium"


def listing(parts: Mapping[str, Path]) -> str:
    """The list. parts: the path of each of PARTS."""
    return "".join(f"{_digest(parts[name])}  {name}\n" for name in sorted(PARTS))


def digest(listed: str) -> str:
    """The release in hex, from the list."""
    return hashlib.sha256(listed.encode()).hexdigest()


def of(boot: Path) -> str:
    """The list of a build's boot files (uki.py)."""
    return listing({name: boot / name for name in PARTS})


@contextmanager
def parts(boot: Path) -> Iterator[Mapping[str, Path]]:
    """Paths of PARTS on a mounted medium; the UKI is in its EFI partition, mounted in the block.

    boot: the folder `boot` of the medium.
    """
    with mounted(boot / "efi.img", "vfat", "loop,ro") as efi:
        yield {**{name: boot / name for name in PARTS}, UKI: efi / disk_layout.REMOVABLE}


def check(boot: Path) -> str:
    """Verify the boot files of a medium against its list. Returns the list.

    Raises DamagedBundleError with the first file that differs.
    """
    listed = boot / SUMS
    if not listed.is_file():
        raise DamagedBundleError(f"{listed} does not exist", hint=COPY)
    with parts(boot) as found:
        actual, named = listing(found), listed.read_text(errors="replace")
    if actual != named:
        wrong = [one.split()[1] for one in actual.splitlines() if one not in named.splitlines()]
        file = wrong[0] if wrong else SUMS
        raise DamagedBundleError(f"{boot / file}: not as it was built", hint=COPY)
    return named


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
