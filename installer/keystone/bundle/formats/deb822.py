"""Debian's control files (deb822(5)): paragraphs of fields, in package lists, sources and packages.

Names of fields are the same in upper and lower case: here they are in lower case.
"""

from __future__ import annotations

import hashlib
import re
from email.utils import format_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

_FIELD = re.compile(r"(?m)^([^\s:#-][^\s:]*):[ \t]*(.*(?:\n[ \t].*)*)")
_COMMENT = re.compile(r"(?m)^#.*\n?")
_BETWEEN = re.compile(r"\n(?:[ \t]*\n)+")


def paragraphs(text: str) -> Iterator[str]:
    """Each paragraph as it is written, without comments and the blank lines between."""
    for part in _BETWEEN.split(_COMMENT.sub("", text)):
        if part.strip():
            yield part.strip("\n")


def fields(paragraph: str) -> dict[str, str]:
    """Values by name; a value of several lines is as it is written, `folded` makes one of them.

    Lines that are no field are passed over, and of two fields of one name the first counts.
    """
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(paragraph):
        found.setdefault(name.lower(), value.rstrip())
    return found


def only(text: str) -> dict[str, str]:
    """The fields of a control file as dpkg takes it: one paragraph, nothing but fields, each once.

    Raises ValueError for anything else.
    """
    lines = text.strip("\n").split("\n")
    found = _FIELD.findall("\n".join(lines))
    heads = [line for line in lines if not line[:1].isspace()]
    if lines[0] not in heads or len(found) != len(heads) or not all(map(str.strip, lines)):
        raise ValueError("a control file that is not one paragraph of fields")
    named = {name.lower(): value.rstrip() for name, value in found}
    if len(named) != len(found):
        raise ValueError("a field of the control file is there twice")
    return named


def folded(value: str) -> str:
    """A value of several lines as one."""
    return " ".join(value.split())


def field(paragraph: str, name: str) -> str:
    """One field, folded; "" when it is not there."""
    found = re.search(rf"(?mi)^{re.escape(name)}:[ \t]*(.*(?:\n[ \t].*)*)", paragraph)
    return folded(found[1]) if found else ""


def filename(paragraph: str) -> str:
    """Where a package of a flat repository lies, without the "./" that they all have."""
    return field(paragraph, "Filename").removeprefix("./")


def paragraph(written: Mapping[str, object]) -> str:
    """The text of one paragraph; what is empty is left out. Lines after the first begin so."""
    return "".join(f"{name}: {value}\n" for name, value in written.items() if value)


def release_file(suite: str, architectures: str, created: datetime, packages: bytes) -> bytes:
    """The Release of a flat apt repository with one Packages (Debian Repository Format)."""
    text = paragraph({
        "Origin": "Keystone",
        "Label": "Keystone",
        "Suite": suite,
        "Codename": suite,
        "Date": format_datetime(created).replace("+0000", "UTC"),
        "Architectures": architectures,
        "Description": f"what the bundle holds for {suite}",
        "SHA256": f"\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages",
    })  # fmt: skip
    return text.encode()
