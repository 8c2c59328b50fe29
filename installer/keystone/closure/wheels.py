"""Check the requirements of Python wheels (PEP 508, Requires-Dist of the core metadata)."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from email.parser import BytesParser
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from keystone.closure.content import MACHINES, describe
from keystone.closure.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.model import Item
    from keystone.closure.content import Content

PYTHON = "3.13"
"""Python version of the newest supported suite, for markers; the label `python` overrides it."""


def check(content: Content) -> Iterator[Finding]:
    """Find requirements that apply on a site's hosts and that no wheel in the bundle satisfies."""
    wheels = [item for item in content.manifest.items if is_wheel(item)]
    versions: dict[str, set[Version]] = defaultdict(set)
    readable = []
    for item in wheels:
        try:
            name, version, *_ = parse_wheel_filename(_file_name(item))
            readable.append((item, _required(content, item)))
            versions[name].add(version)
        except (InvalidWheelFilename, zipfile.BadZipFile, IndexError) as error:
            yield Finding("wheel", f"the wheel cannot be read: {error}", describe(item),
                          "lock again, with another file")  # fmt: skip
    for item, required in readable:
        for text in required:
            yield from _one(content, item, text, versions)


def is_wheel(item: Item) -> bool:
    """Whether an item is a wheel, by its kind and file name."""
    return item.kind in {"wheel", "file", "binary"} and _file_name(item).endswith(".whl")


def _file_name(item: Item) -> str:
    name = (item.labels.get("filename") or item.name).rpartition("/")[2]
    return name if name.endswith(".whl") else item.labels.get("url", "").rpartition("/")[2]


def _required(content: Content, item: Item) -> list[str]:
    with content.open(item.digest) as file, zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        with archive.open(names[0]) as metadata:
            return BytesParser().parse(metadata, headersonly=True).get_all("Requires-Dist", [])


def _one(
    content: Content, item: Item, text: str, versions: dict[str, set[Version]]
) -> Iterator[Finding]:
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        yield Finding("wheel", f"the requirement cannot be read: {error}", describe(item),
                      "report it to the wheel's authors")  # fmt: skip
        return
    machines = [name for name, ours in MACHINES.items() if ours in content.architectures]
    applies = wanted.marker is None or any(
        wanted.marker.evaluate(_environment(item, machine)) for machine in machines or ["x86_64"]
    )
    here = versions.get(canonicalize_name(wanted.name), set())
    if applies and not any(wanted.specifier.contains(v, prereleases=True) for v in here):
        present = f" (in the bundle: {', '.join(map(str, sorted(here)))})" if here else ""
        yield Finding(
            "wheel", f"{wanted.name}{wanted.specifier}{present}", describe(item),
            f"add a wheel of {wanted.name}{wanted.specifier} to the definition",
        )  # fmt: skip


def _environment(item: Item, machine: str) -> dict[str, str]:
    python = item.labels.get("python", PYTHON)
    return {
        "extra": "",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
