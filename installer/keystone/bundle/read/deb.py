"""Check a Debian package (deb(5)): its members, and name and version in its control file.

The maker of a deb decides which files it installs and what its scripts do as root; no check here
can limit that. So this module does not open data.tar. It checks that the package is the one that
the bundle names, and that reading its control.tar needs few resources.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from keystone.bundle.formats import ar, compressed, deb822, foreign_tar, zstd
from keystone.bundle.formats.pieces import Seekable
from keystone.bundle.formats.strict_json import brief
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.model import Item
    from keystone.bundle.read.blobs import Blobs

LIMITS = foreign_tar.Limits(total=16 << 20, member=8 << 20, count=64)
"""Limits of control.tar; the largest in Debian is a kernel's file list, at 3 MiB."""
CONTROL = frozenset(f"control.tar{ending}" for ending in ("", ".gz", ".xz", ".zst"))
DATA = frozenset(f"data.tar{ending}" for ending in ("", ".gz", ".xz", ".zst", ".bz2", ".lzma"))


def check(item: Item, blobs: Blobs) -> None:
    """Check one deb. Raises DamagedBundleError (KSB-27)."""
    try:
        _check(item, blobs)
    except (ValueError, EOFError, KeyError) as error:
        raise DamagedBundleError(
            f"deb {item.name} {item.version}: {brief(error)}",
            hint="compare it with the package in the apt repository, then lock again",
            code="KSB-27",
        ) from error


def _check(item: Item, blobs: Blobs) -> None:
    source = Seekable(lambda at, count: blobs.read(item.digest, at, count), item.size)
    members = [(part.name, part.offset, part.size) for part in islice(ar.members(source), 4)]
    if [name.partition(".tar")[0] for name, _, _ in members] != [
        "debian-binary",
        "control",
        "data",
    ]:
        raise ValueError("its members are not debian-binary, control.tar and data.tar")
    (_, first, size), (control, start, length), (data, _, _) = members
    if blobs.read(item.digest, first, size) != b"2.0\n":
        raise ValueError("not format 2.0")
    for name, known in ((control, CONTROL), (data, DATA)):
        if name not in known:
            raise ValueError(f"{name}: dpkg-deb does not write this compression")
    if length > LIMITS.total:
        raise ValueError(f"{control}: {length} bytes, the limit is {LIMITS.total}")

    def read(at: int, count: int) -> bytes:
        return blobs.read(item.digest, start + at, count)

    if control.endswith(".zst"):
        zstd.require_one(read, length, LIMITS.total)
        return
    parts = foreign_tar.plain(read, length)
    if control.endswith(".gz"):
        parts = compressed.gunzip(parts)
    elif control.endswith(".xz"):
        parts = compressed.unxz(parts)
    _require_same(item, _control(parts))


def _control(parts: Iterator[bytes]) -> dict[str, str]:
    """The fields of the control file. All other members of control.tar must be plain files."""
    text: bytes | None = None
    for entry in foreign_tar.entries(parts, LIMITS, keep="control"):
        name = entry.name.removeprefix("./").rstrip("/")
        if entry.kind == "directory" and not name.strip("."):
            continue
        if entry.kind != "file" or "/" in name or not name.isprintable() or name.startswith("."):
            raise ValueError(f"control.tar contains {entry.name!r:.90}, a {entry.kind}")
        if entry.mode & 0o7000:
            raise ValueError(f"control.tar: {name} has a setuid, setgid or sticky bit")
        if name == "control":
            if text is not None:
                raise ValueError("two control files")
            text = entry.content
    if text is None:
        raise ValueError("no control file")
    return deb822.only(text.decode("utf-8"))


def _require_same(item: Item, fields: dict[str, str]) -> None:
    wanted = {
        "package": item.name,
        "version": item.version,
        "architecture": item.labels.get("architecture", fields["architecture"]),
    }
    for key, value in wanted.items():
        if fields[key] != value:
            raise ValueError(f"its {key} is {fields[key]!r:.90}, not {value}")
