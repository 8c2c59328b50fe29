"""One blob, looked into while it streams past: what it is, and which packages are inside.

What a blob is, its first bytes say. Memory is bounded: only small files with a known place are
read whole; of everything else pieces flow by. Nothing is written and no name becomes a path.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from keystone.bundle import media
from keystone.packager.sbom import archive, golang, licences, packages
from keystone.packager.sbom.model import Inventory, Licence, Package, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keystone.packager.sbom.archive import Member

ELF, ZIP, SCRIPT = b"\x7fELF", b"PK\x03\x04", b"#!"
MAX_DATABASE = 16 << 20
"""Bytes of a package database that is read whole; Debian's full desktop has 6 MB."""
MAX_TEXT = 1 << 20
"""Bytes of a licence text or a Python distribution's metadata."""
MAX_DIRECTORY = 32 << 20
MAX_COPYRIGHTS = 20_000
COPYRIGHT = re.compile(r"usr/share/doc/([a-z0-9][a-z0-9.+-]{1,100})/copyright")
DPKG = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?")
APK = re.compile(r"(usr/)?lib/apk/db/installed")
RPM = re.compile(r"(var/lib|usr/lib/sysimage|usr/share)/rpm/(rpmdb\.sqlite|Packages(\.db)?)")
PYTHON = re.compile(r"(.*/)?[^/]+(\.dist-info/METADATA|\.egg-info/PKG-INFO|\.egg-info)")


@dataclass
class _Found:
    """What was seen so far in one blob."""

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
    """The inventory of a blob. Reads it to the end, and raises only what `pieces` raises."""
    iterator = iter(pieces)
    source = archive.Reader(iterator)
    start = source.peek(archive.BLOCK)
    found = _Found()
    form, labels = "other", dict[str, str]()
    try:
        if start.startswith(archive.AR):
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
            labels = dict(packages.image_labels(_whole(source, media.MAX_MANIFEST)))
        else:
            form = _archive(archive.expanded(source), found)
    except UnreadableError as error:
        found.notes.append(f"not read to its end: {error}")
    while source.some():
        pass
    return _inventory(form, found, MappingProxyType(labels))


def _inventory(form: str, found: _Found, labels: Mapping[str, str]) -> Inventory:
    """Licences go to the packages whose names their copyright files carry."""
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


def _archive(source: archive.Reader, found: _Found) -> str:
    """A tar, or one program, that may have been compressed; or nothing that is known."""
    start = source.peek(archive.BLOCK)
    if archive.is_tar(start):
        _tar(source, found)
        return "tar"
    if start.startswith(ELF):
        found.add(golang.packages(iter(source.some, b"")))
        return "elf"
    if start == bytes(archive.BLOCK):
        return "tar"
    return "other"


def _deb(source: archive.Reader, found: _Found) -> None:
    for member in archive.ar_members(source):
        if member.name.startswith(("control.tar", "data.tar")):
            _tar(archive.expanded(archive.Reader(member.data)), found)


def _tar(source: archive.Reader, found: _Found) -> None:
    for member in archive.tar_members(source):
        _member(member, re.sub(r"^(\./|/)+", "", member.name), found)


def _member(member: Member, name: str, found: _Found) -> None:
    """One regular file: taken whole where its place says what it is, else tried as a program."""
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
    source = archive.Reader(member.data)
    if source.peek(len(ELF)) == ELF:
        found.add(golang.packages(iter(source.some, b"")))


def _text(member: Member, limit: int) -> str:
    if member.size > limit:
        raise UnreadableError(f"{member.name[:100]!r} has {member.size} bytes")
    return b"".join(member.data).decode(errors="replace")


def _whole(source: archive.Reader, limit: int) -> bytes:
    """All of it, or nothing where it is larger: no image configuration is."""
    parts = bytearray()
    while part := source.some():
        parts += part
        if len(parts) > limit:
            return b""
    return bytes(parts)


def _zip(source: archive.Reader, found: _Found) -> None:
    """A wheel, or a Python program packed as one. Zips are read from their end: needs a file."""
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
    """Zipfile reads the directory whole: its size stands in the last record (APPNOTE 4.3.16)."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (66 << 10)))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if length > MAX_DIRECTORY:
        raise UnreadableError(f"a zip directory of {length} bytes")
