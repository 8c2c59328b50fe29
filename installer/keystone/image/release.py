"""What names a version of an image by every byte that a machine starts: a list, and its digest.

The list has the SHA-256 of each boot file, in the form of sha256sum(1). The command line among them
names the root hash of the system. So the digest of the list stands for all of it, and people name
that one. A medium carries the list as boot/SHA256SUMS: by itself that finds damage only.
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
COPY = "take another copy of the medium"


def listing(parts: Mapping[str, Path]) -> str:
    """The list. parts: where each of PARTS is."""
    return "".join(f"{_digest(parts[name])}  {name}\n" for name in sorted(PARTS))


def digest(listed: str) -> str:
    """What people name, in hex."""
    return hashlib.sha256(listed.encode()).hexdigest()


def of(boot: Path) -> str:
    """The list of a build's boot files (uki.py)."""
    return listing({name: boot / name for name in PARTS})


@contextmanager
def parts(boot: Path) -> Iterator[Mapping[str, Path]]:
    """Where each of PARTS is on a medium, which has the UKI in its EFI partition.

    boot: the medium's folder of that name.
    """
    with mounted(boot / "efi.img", "vfat", "loop,ro") as efi:
        yield {**{name: boot / name for name in PARTS}, UKI: efi / disk_layout.REMOVABLE}


def check(boot: Path) -> str:
    """The list of a medium, whose boot files are as it says.

    Raises DamagedBundleError with the file that is another one.
    """
    listed = boot / SUMS
    if not listed.is_file():
        raise DamagedBundleError(f"{listed}: not there", hint=COPY)
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
