"""A Debian package as dpkg may open it (deb(5)): its parts, and what its control file says it is.

What a deb unpacks and what its scripts do is its maker's: it runs as root, whoever signed it. So
data.tar is not opened here; this sees that the package is the one that the bundle names, and that
reading its head costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle.formats import deb822, foreign_tar, zstd
from keystone.bundle.formats.strict_json import brief
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.model import Item
    from keystone.bundle.read.blobs import Blobs

MAGIC = b"!<arch>\n"
HEADER = 60
LIMITS = foreign_tar.Limits(total=16 << 20, member=8 << 20, count=64)
"""Of control.tar; a kernel's file list is the largest that Debian has, at 3 MiB."""
CONTROL = frozenset(f"control.tar{ending}" for ending in ("", ".gz", ".xz", ".zst"))
DATA = frozenset(f"data.tar{ending}" for ending in ("", ".gz", ".xz", ".zst", ".bz2", ".lzma"))


def check(item: Item, blobs: Blobs) -> None:
    """Raises DamagedBundleError (KSB-27)."""
    try:
        _check(item, blobs)
    except (ValueError, EOFError, KeyError) as error:
        raise DamagedBundleError(
            f"deb {item.name} {item.version}: {brief(error)}",
            hint="compare it with the archive's own; lock again",
            code="KSB-27",
        ) from error


def _check(item: Item, blobs: Blobs) -> None:
    members = list(_members(item, blobs))
    if [name.partition(".tar")[0] for name, _, _ in members] != [
        "debian-binary",
        "control",
        "data",
    ]:
        raise ValueError("not debian-binary, control.tar and data.tar")
    (_, first, size), (control, start, length), (data, _, _) = members
    if blobs.read(item.digest, first, size) != b"2.0\n":
        raise ValueError("not format 2.0")
    for name, known in ((control, CONTROL), (data, DATA)):
        if name not in known:
            raise ValueError(f"{name}: not a compression that dpkg-deb writes")
    if length > LIMITS.total:
        raise ValueError(f"{control}: {length} bytes")

    def read(at: int, count: int) -> bytes:
        return blobs.read(item.digest, start + at, count)

    if control.endswith(".zst"):
        zstd.require_one(read, length, LIMITS.total)
        return
    parts = foreign_tar.plain(read, length)
    if control.endswith(".gz"):
        parts = foreign_tar.gunzip(parts)
    elif control.endswith(".xz"):
        parts = foreign_tar.unxz(parts)
    _require_same(item, _control(parts))


def _members(item: Item, blobs: Blobs) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each part of the ar archive, at most four."""
    if blobs.read(item.digest, 0, len(MAGIC)) != MAGIC:
        raise ValueError("not an ar archive")
    position = len(MAGIC)
    for _ in range(4):
        if position == item.size:
            return
        header = blobs.read(item.digest, position, HEADER)
        size = header[48:58].rstrip(b" ")
        if len(header) != HEADER or header[58:] != b"`\n" or not size.isdigit():
            raise ValueError(f"no ar header at byte {position}")
        position += HEADER
        name = header[:16].rstrip(b" ").removesuffix(b"/").decode("ascii")
        yield name, position, int(size)
        position += int(size) + int(size) % 2
        if position > item.size:
            raise ValueError(f"{name}: goes on behind the package's end")


def _control(parts: Iterator[bytes]) -> dict[str, str]:
    """The fields of the control file; every other part of control.tar is a plain file too."""
    text: bytes | None = None
    for entry in foreign_tar.entries(parts, LIMITS, keep="control"):
        name = entry.name.removeprefix("./").rstrip("/")
        if entry.kind == "directory" and not name.strip("."):
            continue
        if entry.kind != "file" or "/" in name or not name.isprintable() or name.startswith("."):
            raise ValueError(f"control.tar holds {entry.name!r:.90}, a {entry.kind}")
        if entry.mode & 0o7000:
            raise ValueError(f"control.tar: {name} would run as somebody else")
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
