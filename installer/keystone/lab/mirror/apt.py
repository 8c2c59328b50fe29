"""Derive apt sources for another Debian suite from this machine's own.

The lab has no archive host built in: it uses the one that this machine uses (the public archive, a
corporate mirror). Formats: sources.list(5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import PreflightError
from keystone.packager.sources import machine_archives
from keystone.packager.sources.apt import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator

POCKETS = ("", "-updates", "-security")
"""The pockets of a suite to use; not backports."""


def codename(os_release: str) -> str:
    """VERSION_CODENAME from the text of /etc/os-release (os-release(5)). Raises PreflightError."""
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)\"?$", os_release, re.MULTILINE)
    if not found:
        raise PreflightError("/etc/os-release has no VERSION_CODENAME", hint="use Debian 12 or 13")
    return found[1]


def for_suite(files: list[str], old: str, new: str) -> str:
    """deb822 sources for suite `new`, from the texts of source files with suite `old`.

    Other suites are left out. The result is empty if no file has suite `old`.
    """
    wanted = {old + pocket: new + pocket for pocket in POCKETS}
    stanzas = []
    for address, suites in (entry for text in files for entry in _entries(text)):
        names = [wanted[suite] for suite in suites if suite in wanted]
        if names:
            archive = Archive(address, " ".join(names), ("main",))
            stanzas.append(str(archive))
    return "\n".join(dict.fromkeys(stanzas))


def sources(suite: str) -> str:
    """deb822 sources for `suite`, from this machine's configuration.

    Raises PreflightError if this machine has no sources of its own release.
    """
    etc = Path("/etc/apt")
    parts = sorted((etc / "sources.list.d").glob("*.sources"))
    parts += [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    files = [path.read_text() for path in parts if path.is_file()]
    text = for_suite(files, codename(Path("/etc/os-release").read_text()), suite)
    if not text:
        raise PreflightError(
            "/etc/apt has no sources for this machine's Debian release",
            hint="add a Debian archive: the lab derives its package sources from it",
        )
    return text


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """(address, suites) of each binary source in a file of either format."""
    is_deb822 = re.search(r"(?mi)^Types:", text) is not None
    read = machine_archives.of_sources if is_deb822 else machine_archives.of_list
    found: dict[str, list[str]] = {}
    for address, suite, _ in read(text):
        found.setdefault(address, []).append(suite)
    yield from found.items()
