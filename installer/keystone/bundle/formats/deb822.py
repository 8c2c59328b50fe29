"""Debian control files (deb822(5)): paragraphs of fields, in package lists, sources and packages.

Field names are case-insensitive; this module returns them in lower case.
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
    """The unchanged text of each paragraph, without comments and separating blank lines."""
    for part in _BETWEEN.split(_COMMENT.sub("", text)):
        if part.strip():
            yield part.strip("\n")


def fields(paragraph: str) -> dict[str, str]:
    """Values by field name. A value of several lines is unchanged; `folded` joins the lines.

    Lines that are not part of a field are skipped; of several fields of one name the first counts.
    """
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(paragraph):
        found.setdefault(name.lower(), value.rstrip())
    return found


def only(text: str) -> dict[str, str]:
    """The fields of a control file that dpkg accepts: one paragraph, only fields, each once.

    Raises ValueError for any other content.
    """
    lines = text.strip("\n").split("\n")
    found = _FIELD.findall("\n".join(lines))
    heads = [line for line in lines if not line[:1].isspace()]
    if lines[0] not in heads or len(found) != len(heads) or not all(map(str.strip, lines)):
        raise ValueError("the control file is not one paragraph of fields")
    named = {name.lower(): value.rstrip() for name, value in found}
    if len(named) != len(found):
        raise ValueError("the control file contains a field twice")
    return named


def folded(value: str) -> str:
    """Join a value of several lines to one line."""
    return " ".join(value.split())


def field(paragraph: str, name: str) -> str:
    """One field, folded; "" when it is missing."""
    found = re.search(rf"(?mi)^{re.escape(name)}:[ \t]*(.*(?:\n[ \t].*)*)", paragraph)
    return folded(found[1]) if found else ""


def filename(paragraph: str) -> str:
    """The path of a package in a flat repository, without the leading "./"."""
    return field(paragraph, "Filename").removeprefix("./")


def paragraph(written: Mapping[str, object]) -> str:
    """Format one paragraph and omit empty fields.

    written: values by field name; the second and later lines of a value must start with a space.
    """
    return "".join(f"{name}: {value}\n" for name, value in written.items() if value)


def release_file(suite: str, architectures: str, created: datetime, packages: bytes) -> bytes:
    """The Release file of a flat apt repository with one Packages file.

    Source: Debian Repository Format. created: the date of the repository, in UTC.
    """
    text = paragraph({
        "Origin": "Keystone",
        "Label": "Keystone",
        "Suite": suite,
        "Codename": suite,
        "Date": format_datetime(created).replace("+0000", "UTC"),
        "Architectures": architectures,
        "Description": f"packages of the bundle for {suite}",
        "SHA256": f"\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages",
    })  # fmt: skip
    return text.encode()
