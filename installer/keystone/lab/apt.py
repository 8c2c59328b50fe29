"""The machine's own apt sources, turned to another Debian suite.

The lab names no archive host: wherever this machine gets Debian from (the public archive, a
corporate mirror), the lab gets it from there too. Formats: sources.list(5).
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
"""Parts of a suite that are used; backports and third parties are not."""


def codename(os_release: str) -> str:
    """VERSION_CODENAME out of the text of /etc/os-release (os-release(5))."""
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)\"?$", os_release, re.MULTILINE)
    if not found:
        raise PreflightError(
            "/etc/os-release names no VERSION_CODENAME", hint="use Debian 12 or 13"
        )
    return found[1]


def turned(files: list[str], old: str, new: str) -> str:
    """deb822 text for suite `new`, out of the texts of files that serve suite `old`.

    Third-party suites are left out. An empty answer means that no file serves `old`.
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
    """deb822 sources for `suite` from this machine's configuration.

    Raises PreflightError when this machine has no sources of its own release.
    """
    etc = Path("/etc/apt")
    parts = sorted((etc / "sources.list.d").glob("*.sources"))
    parts += [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    files = [path.read_text() for path in parts if path.is_file()]
    text = turned(files, codename(Path("/etc/os-release").read_text()), suite)
    if not text:
        raise PreflightError(
            "/etc/apt: no sources of this machine's own Debian release",
            hint="the lab derives its package sources from them: add a Debian archive",
        )
    return text


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """(address, suites) of every binary source in one file, whichever of the two formats."""
    is_deb822 = re.search(r"(?mi)^Types:", text) is not None
    read = machine_archives.of_sources if is_deb822 else machine_archives.of_list
    found: dict[str, list[str]] = {}
    for address, suite, _ in read(text):
        found.setdefault(address, []).append(suite)
    yield from found.items()
