"""Package databases that are found inside images and archives, as their own manuals describe them.

Each function takes one file's text, which is a stranger's: odd lines are passed over, and no more
than MAX_PACKAGES are taken.
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
    """Paragraphs of apk's database: a letter, a colon, a value; upper and lower case differ."""
    for block in islice(re.finditer(r"(?:[^\n]+(?:\n|$))+", text), MAX_PACKAGES):
        pairs = (line.partition(":") for line in block[0].splitlines() if line[:1] not in " \t")
        yield {key: value.strip() for key, _, value in pairs}


def dpkg(text: str) -> list[Package]:
    """Of dpkg's status, a distroless status.d file, or a deb's control file (deb-control(5))."""
    return [
        Package("deb", name, version, architecture=fields.get("architecture", ""))
        for fields in map(deb822.fields, islice(deb822.paragraphs(text), MAX_PACKAGES))
        if (name := _legal(NAME, fields.get("package", "")))
        and (version := _legal(VERSION, fields.get("version", "")))
        and fields.get("status", "ok installed").endswith(" installed")
    ]


def apk(text: str) -> list[Package]:
    """Of apk's database of installed packages (apk-package(5)): P, V, A and L lines."""
    return [
        Package("apk", name, version, architecture=fields.get("A", ""),
                licence=licences.spdx(fields.get("L", "")))
        for fields in _stanzas(text)
        if (name := _legal(NAME, fields.get("P", "")))
        and (version := _legal(VERSION, fields.get("V", "")))
    ]  # fmt: skip


def python(text: str) -> list[Package]:
    """Of a distribution's METADATA or PKG-INFO (Python core metadata 2.4).

    License-Expression is SPDX by PEP 639; License and classifiers are words.
    """
    head = HeaderParser().parsestr(text.partition("\n\n")[0] + "\n\n")
    name, version = str(head.get("Name", "")), str(head.get("Version", ""))
    if not _legal(NAME, name) or not _legal(VERSION, version):
        return []
    expression = licences.canonical(str(head.get("License-Expression", "")))
    if expression:
        licence = Licence(expression)
    else:
        said = str(head.get("License", "")).strip().split("\n")[0]
        classified = [str(value) for value in head.get_all("Classifier", [])]
        marks = [value.rpartition(" :: ")[2] for value in classified if value[:9] == "License :"]
        licence = licences.stated([] if said == "UNKNOWN" else [said]) or licences.stated(marks)
    return [Package("pypi", re.sub(r"[-_.]+", "-", name).lower(), version, licence=licence)]


def os_release(text: str) -> str:
    """ID of os-release(5), "" without one."""
    match = re.search(r'(?m)^ID="?([a-z0-9._-]{1,60})"?$', text)
    return match[1] if match else ""


def image_labels(data: bytes) -> Mapping[str, str]:
    """The OCI annotations among an image configuration's labels, without their prefix."""
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
