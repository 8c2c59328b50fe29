"""Scan one blob as a stream: its format, and the packages in it.

The first bytes determine the format. Memory use is bounded: only small files at known paths are
read whole, everything else in pieces. Only zips are written to disk, as an unnamed file; no name in
an archive is used as a path.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from keystone.bundle import media
from keystone.bundle.formats import ar, foreign_tar
from keystone.bundle.formats.compressed import expanded
from keystone.bundle.formats.foreign_tar import BLOCK
from keystone.bundle.formats.pieces import Reader, UnreadableError
from keystone.packager.sbom import golang, licences, packages
from keystone.packager.sbom.model import Inventory, Licence, Package

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keystone.bundle.formats.foreign_tar import Member

ELF, ZIP, SCRIPT = b"\x7fELF", b"PK\x03\x04", b"#!"
MAX_DATABASE = 16 << 20
"""Maximum size in bytes of a package database; that of a full Debian desktop has 6 MB."""
MAX_TEXT = 1 << 20
"""Maximum size in bytes of a licence text or a Python distribution's metadata."""
MAX_DIRECTORY = 32 << 20
MAX_COPYRIGHTS = 20_000
COPYRIGHT = re.compile(r"usr/share/doc/([a-z0-9][a-z0-9.+-]{1,100})/copyright")
DPKG = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?")
APK = re.compile(r"(usr/)?lib/apk/db/installed")
RPM = re.compile(r"(var/lib|usr/lib/sysimage|usr/share)/rpm/(rpmdb\.sqlite|Packages(\.db)?)")
PYTHON = re.compile(r"(.*/)?[^/]+(\.dist-info/METADATA|\.egg-info/PKG-INFO|\.egg-info)")


@dataclass
class _Found:
    """The findings in one blob so far."""

    packages: set[Package] = field(default_factory=set)
    licences: dict[str, Licence] = field(default_factory=dict)
    distribution: str = ""
    notes: list[str] = field(default_factory=list)
    control: list[Package] = field(default_factory=list)

    def add(self, found: Iterable[Package]) -> None:
        self.packages.update(found)
        if len(self.packages) > packages.MAX_PACKAGES:
            raise UnreadableError(f"more than {packages.MAX_PACKAGES} packages")


def scan(pieces: Iterable[bytes]) -> Inventory:
    """Return the inventory of a blob. Reads all pieces, and raises only what `pieces` raises."""
    iterator = iter(pieces)
    source = Reader(iterator)
    start = source.peek(BLOCK)
    found = _Found()
    form, labels = "other", dict[str, str]()
    try:
        if start.startswith(ar.MAGIC):
            form = "deb"
            _deb(source, found)
        elif start.startswith(ELF):
            form = "elf"
            found.add(golang.packages(iter(source.some, b"")))
        elif start.startswith(ZIP) or (start.startswith(SCRIPT) and ZIP in start):
            form = "zip"
            _zip(source, found)
        elif start[:1] == b"{":
            form = "json"
            labels = dict(packages.image_labels(_whole(source, media.MAX_OCI_MANIFEST)))
        else:
            form = _archive(expanded(source), found)
    except (UnreadableError, MemoryError) as error:
        found.notes.append(f"not read to its end: {error}")
    while source.some():
        pass
    return _inventory(form, found, MappingProxyType(labels))


def _inventory(form: str, found: _Found, labels: Mapping[str, str]) -> Inventory:
    """Assemble the inventory; the licence of a package comes from its copyright file."""
    own = [replace(p, licence=found.licences.get(p.name, p.licence)) for p in found.control]
    listed = {
        replace(p, licence=found.licences.get(p.name, p.licence)) if p.kind == "deb" else p
        for p in found.packages
    }
    licence = own[0].licence if own else licences.spdx(labels.get("licenses", ""))
    return Inventory(
        form=form,
        packages=tuple(sorted(listed)),
        licence=licence,
        distribution=found.distribution,
        labels=labels,
        notes=tuple(found.notes),
    )


def _archive(source: Reader, found: _Found) -> str:
    """Scan a decompressed tar or program; return its format, "other" if it is neither."""
    start = source.peek(BLOCK)
    if foreign_tar.is_tar(start):
        _tar(source, found)
        return "tar"
    if start.startswith(ELF):
        found.add(golang.packages(iter(source.some, b"")))
        return "elf"
    if start == bytes(BLOCK):
        return "tar"
    return "other"


def _deb(source: Reader, found: _Found) -> None:
    for member in ar.members(source):
        if member.name.startswith(("control.tar", "data.tar")):
            _tar(expanded(Reader(member.data)), found)


def _tar(source: Reader, found: _Found) -> None:
    for member in foreign_tar.members(source):
        if member.kind in {"file", "sparse"}:
            _member(member, re.sub(r"^(\./|/)+", "", member.name), found)


def _member(member: Member, name: str, found: _Found) -> None:
    """Scan one regular file: read it whole at a known path, else try it as a Go program."""
    if name == "control" or DPKG.fullmatch(name):
        listed = packages.dpkg(_text(member, MAX_DATABASE))
        if name == "control":
            found.control = listed[:1]
        else:
            found.add(listed)
    elif match := COPYRIGHT.fullmatch(name):
        if len(found.licences) < MAX_COPYRIGHTS and member.size <= MAX_TEXT:
            found.licences[match[1]] = licences.debian_copyright(_text(member, MAX_TEXT))
    elif APK.fullmatch(name):
        found.add(packages.apk(_text(member, MAX_DATABASE)))
    elif name in {"etc/os-release", "usr/lib/os-release"}:
        found.distribution = packages.os_release(_text(member, MAX_TEXT)) or found.distribution
    elif RPM.fullmatch(name):
        found.notes.append(f"an rpm database, which is not read: {name}")
    elif PYTHON.fullmatch(name):
        found.add(packages.python(_text(member, MAX_TEXT)))
    elif member.size > golang.HEAD:
        _program(member, found)


def _program(member: Member, found: _Found) -> None:
    source = Reader(member.data)
    if source.peek(len(ELF)) == ELF:
        found.add(golang.packages(iter(source.some, b"")))


def _text(member: Member, limit: int) -> str:
    if member.size > limit:
        raise UnreadableError(f"{member.name[:100]!r} has {member.size} bytes")
    return b"".join(member.data).decode(errors="replace")


def _whole(source: Reader, limit: int) -> bytes:
    """Read everything; return b"" above `limit`, which no image configuration exceeds."""
    parts = bytearray()
    while part := source.some():
        parts += part
        if len(parts) > limit:
            return b""
    return bytes(parts)


def _zip(source: Reader, found: _Found) -> None:
    """Scan a wheel or a packed Python program, through a file: zips are read from their end."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        while part := source.some():
            file.write(part)
        try:
            _directory_is_small(file)
            with zipfile.ZipFile(file) as opened:
                for info in opened.infolist():
                    if PYTHON.fullmatch(info.filename) and info.file_size <= MAX_TEXT:
                        with opened.open(info) as member:
                            text = member.read(MAX_TEXT).decode(errors="replace")
                        found.add(packages.python(text))
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OSError,
        ) as error:
            raise UnreadableError(f"not a zip that can be read: {error}") from error


def _directory_is_small(file: IO[bytes]) -> None:
    """Limit the zip directory, which zipfile reads whole: the last record has its size.

    See APPNOTE 4.3.16. Raises UnreadableError.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - (66 << 10)))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if length > MAX_DIRECTORY:
        raise UnreadableError(f"a zip directory of {length} bytes")
