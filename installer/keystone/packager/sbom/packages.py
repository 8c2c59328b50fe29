"""Parse the package databases in images and archives.

Each function takes the text of one file, which is untrusted: it skips invalid lines, and reads at
most MAX_PACKAGES packages.
"""

from __future__ import annotations

import json
import re
from email.parser import HeaderParser
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from keystone.bundle.formats import deb822
from keystone.packager.sbom import licences
from keystone.packager.sbom.model import Licence, Package

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PACKAGES = 50_000
MAX_LABEL = 400
NAME = re.compile(r"[A-Za-z0-9][\w.+~-]{0,200}")
VERSION = re.compile(r"[\w.+:~!-]{1,200}")
OCI_LABEL = "org.opencontainers.image."


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield stanzas of apk's database: a letter, a colon, a value; letters are case-sensitive."""
    for block in islice(re.finditer(r"(?:[^\n]+(?:\n|$))+", text), MAX_PACKAGES):
        pairs = (line.partition(":") for line in block[0].splitlines() if line[:1] not in " \t")
        yield {key: value.strip() for key, _, value in pairs}


def dpkg(text: str) -> list[Package]:
    """Parse dpkg's status, a distroless status.d file, or a deb's control file (deb-control(5))."""
    return [
        Package("deb", name, version, architecture=fields.get("architecture", ""))
        for fields in map(deb822.fields, islice(deb822.paragraphs(text), MAX_PACKAGES))
        if (name := _legal(NAME, fields.get("package", "")))
        and (version := _legal(VERSION, fields.get("version", "")))
        and fields.get("status", "ok installed").endswith(" installed")
    ]


def apk(text: str) -> list[Package]:
    """Parse apk's database of installed packages (apk-package(5)): P, V, A and L lines."""
    return [
        Package("apk", name, version, architecture=fields.get("A", ""),
                licence=licences.spdx(fields.get("L", "")))
        for fields in _stanzas(text)
        if (name := _legal(NAME, fields.get("P", "")))
        and (version := _legal(VERSION, fields.get("V", "")))
    ]  # fmt: skip


def python(text: str) -> list[Package]:
    """Parse a Python distribution's METADATA or PKG-INFO (Python core metadata 2.4).

    License-Expression is SPDX (PEP 639); License and classifiers are names.
    """
    head = HeaderParser().parsestr(text.partition("\n\n")[0] + "\n\n")
    name, version = str(head.get("Name", "")), str(head.get("Version", ""))
    if not _legal(NAME, name) or not _legal(VERSION, version):
        return []
    expression = licences.canonical(str(head.get("License-Expression", "")))
    if expression:
        licence = Licence(expression)
    else:
        field = str(head.get("License", "")).strip().split("\n")[0]
        classifiers = [str(value) for value in head.get_all("Classifier", [])]
        names = [value.rpartition(" :: ")[2] for value in classifiers if value[:9] == "License :"]
        licence = licences.stated([] if field == "UNKNOWN" else [field]) or licences.stated(names)
    return [Package("pypi", re.sub(r"[-_.]+", "-", name).lower(), version, licence=licence)]


def os_release(text: str) -> str:
    """Return ID of os-release(5); "" without one."""
    match = re.search(r'(?m)^ID="?([a-z0-9._-]{1,60})"?$', text)
    return match[1] if match else ""


def image_labels(data: bytes) -> Mapping[str, str]:
    """Return the OCI annotations in an image configuration's labels, without their prefix."""
    try:
        labels = json.loads(data)["config"]["Labels"]
        found = {
            str(key).removeprefix(OCI_LABEL): str(value)[:MAX_LABEL]
            for key, value in labels.items()
            if str(key).startswith(OCI_LABEL)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = {}
    return MappingProxyType(found)


def _legal(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else ""
