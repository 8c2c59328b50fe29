"""Read the machine's own apt sources (sources.list(5)) and replace their suite by another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from keystone import log
from keystone.bundle.formats import deb822
from keystone.errors import ConfigurationError
from keystone.packager.sources.apt import KEYRING, Archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ETC_APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
OFF = {"no", "false", "without", "off", "disable", "0"}
"""apt's words for false (apt.conf(5))."""
PLAIN_SUITES = ("", "-updates", "-security")
ALIASES = ("stable", "oldstable", "oldoldstable", "testing")
"""Debian's suite names for changing releases; other vendors use them for something else."""
DEBIANS_PATH = re.compile(r"/debian(-security)?/?$")
DEBIANS_KEYS = re.compile(r"/[^\s,]*/debian-archive-[^\s,/]*")
"""Debian's keyring files: some are for a single release, KEYRING is for all releases."""
SUPPORTED = re.compile(r"(https?|file):/")
"""URIs that a lock can contain and `bundle create` can read."""
HINT = "set spec.debs[].sources in the definition"


def machine_archives(suite: str, components: Sequence[str]) -> tuple[Archive, ...]:
    """Return the machine's archives of its own release, with the suite replaced.

    Each has the key that the machine trusts for it. Suites with other names (backports, other
    distributions, most other vendors) are left out. Raises ConfigurationError when none is left.
    """
    text = OS_RELEASE.read_text(errors="replace")
    release = re.search(r"(?m)^VERSION_CODENAME=\"?([a-z]+)", text)
    own = release[1] if release else ""
    found: dict[tuple[str, str], Archive] = {}
    unsupported: list[str] = []
    for written, name, signed_by in _entries():
        uri = _first_of(written)
        debians = DEBIANS_KEYS.fullmatch(signed_by)
        extra = _extra(name, own, aliases=bool(debians or DEBIANS_PATH.search(uri)))
        if extra is None:
            continue
        if not SUPPORTED.match(uri):
            unsupported.append(f"{written} {name}")
            continue
        key = signed_by if signed_by and not debians else KEYRING
        found[uri, suite + extra] = Archive(uri, suite + extra, tuple(components), key)
    if not found:
        names = f" (unsupported in a lock: {', '.join(unsupported)})" if unsupported else ""
        raise ConfigurationError(
            f"{ETC_APT}: no archive of {own or 'this release'} that could provide {suite}{names}",
            hint=HINT,
        )
    for entry in unsupported:
        log.warn(f"{ETC_APT}: {entry} is left out: a lock cannot contain this URI; {HINT}")
    return tuple(found.values())


def _extra(name: str, own: str, *, aliases: bool) -> str | None:
    """Return what follows the release in a suite's name; None if it is not the own release."""
    for word in filter(None, (own, *(ALIASES if aliases else ()))):
        if name.startswith(word) and name.removeprefix(word) in PLAIN_SUITES:
            return name.removeprefix(word)
    return None


def _first_of(uri: str) -> str:
    """Return a URI itself, or the first supported URI in a mirror list on this machine.

    A mirror list is "mirror+file:/path": one URI per line, followed by options
    (apt-transport-mirror(1)).
    """
    if not uri.startswith("mirror+file:"):
        return uri
    path = Path(unquote("/" + uri.partition(":")[2].lstrip("/")))
    lines = path.read_text(errors="replace").splitlines()
    return next((line.split()[0] for line in lines if SUPPORTED.match(line)), uri)


def _entries() -> Iterator[tuple[str, str, str]]:
    """Yield (URI, suite, Signed-By) of every active source, in both of apt's formats."""
    for path in sorted((ETC_APT / "sources.list.d").glob("*.sources")):
        yield from of_sources(path.read_text(errors="replace"))
    old = [ETC_APT / "sources.list", *sorted((ETC_APT / "sources.list.d").glob("*.list"))]
    for path in filter(Path.exists, old):
        yield from of_list(path.read_text(errors="replace"))


def of_list(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (URI, suite, Signed-By) of the active lines in a *.list file (sources.list(5))."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)(?:\s|$)", line)
        if match:
            key = re.search(r"signed-by=(\S+)", match[1] or "")
            yield match[2], match[3], key[1] if key else ""


def of_sources(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (URI, suite, Signed-By) of the active sources in a *.sources file (sources.list(5)).

    Lines that begin with a blank continue a field; a key embedded in such lines stays unchanged.
    """
    for stanza in map(deb822.fields, deb822.paragraphs(text)):
        fields = {name: deb822.folded(value) for name, value in stanza.items()}
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in OFF:
            continue
        signed_by = fields.get("signed-by", "")
        if "-----BEGIN" in signed_by:
            signed_by = stanza["signed-by"]
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite, signed_by
