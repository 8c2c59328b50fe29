"""The machine's own apt sources, turned to another Debian suite.

The lab names no archive host: wherever this machine gets Debian from (the public archive, a
corporate mirror), the lab gets it from there too. Formats: sources.list(5).
"""

from __future__ import annotations

import re
from pathlib import Path

from keystone.errors import PreflightError

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
            stanzas.append(
                f"Types: deb\nURIs: {address}\nSuites: {' '.join(names)}\nComponents: main\n"
                "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            )
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


def _entries(text: str) -> list[tuple[str, list[str]]]:
    """(address, suites) of every binary source in one file, whichever of the two formats."""
    if re.search(r"^Types:", text, re.MULTILINE):
        return [entry for stanza in re.split(r"\n\s*\n", text) for entry in _deb822(stanza)]
    lines = (re.sub(r"\[[^\]]*\]", " ", line).split() for line in text.splitlines())
    return [(words[1], [words[2]]) for words in lines if len(words) > 2 and words[0] == "deb"]  # noqa: PLR2004 type, address, suite


def _deb822(stanza: str) -> list[tuple[str, list[str]]]:
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
    if "deb" not in fields.get("Types", "").split() or fields.get("Enabled") == "no":
        return []
    return [(uri, fields.get("Suites", "").split()) for uri in fields.get("URIs", "").split()]
