"""Read licences as stated: as SPDX expressions where a standard defines that, else as names."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from keystone.packager.sbom.model import UNKNOWN, Licence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from license_expression import Licensing

MAX_EXPRESSION = 2000
MAX_NAMES = 60
NAME_CHARACTERS = 120
# Debian's machine-readable copyright format 1.0, "License specification", mapped to the SPDX list.
# "MIT" is missing: Debian's standard says that it is ambiguous, and calls SPDX's MIT Expat.
DEBIAN = {
    "expat": "MIT",
    "artistic": "Artistic-1.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "zlib": "Zlib",
    "python-2.0": "Python-2.0",
}
GNU = re.compile(r"(?i)(GPL|LGPL|AGPL|GFDL)-(\d(?:\.\d)?)(\+?)")
AS_IN_SPDX = re.compile(
    r"(?i)Apache-[12]\.\d|Artistic-2\.0|CC-BY(-NC)?(-ND|-SA)?-\d\.\d|CC0-1\.0|CDDL-1\.0|EFL-2\.0"
    r"|CPL-1\.0|ISC|LPPL-1\.3[ac]|MPL-[12]\.\d|W3C|ZPL-2\.\d"
)


def spdx(text: str) -> Licence:
    """Parse an SPDX expression; return the text as a name if it is not one."""
    expression = canonical(text)
    return Licence(expression) if expression else stated([text])


def stated(texts: Iterable[str]) -> Licence:
    """Make a licence from names that are not SPDX; they stay as written."""
    names = {" ".join(text.split())[:NAME_CHARACTERS] for text in texts}
    return Licence(names=tuple(sorted(names - {""})[:MAX_NAMES]))


@cache
def canonical(text: str) -> str:
    """Return an expression in SPDX's spelling; "" if it is not one (SPDX 2.3, annex D)."""
    from license_expression import ExpressionError  # noqa: PLC0415 the packager's machine has it

    text = text.strip()
    if not text or len(text) > MAX_EXPRESSION or "LicenseRef" in text:
        return ""
    try:
        parsed = _licensing().parse(text, validate=True, strict=True)
    except (ExpressionError, RecursionError, ValueError, AttributeError):
        return ""
    return str(parsed.render()) if parsed is not None else ""


@cache
def _licensing() -> Licensing:
    from license_expression import get_spdx_licensing  # noqa: PLC0415 slow

    return get_spdx_licensing()


def debian_copyright(text: str) -> Licence:
    """Return the licence of all files together in a machine-readable debian/copyright (DEP-5).

    If SPDX lacks one of the names, the result is a list of names, in SPDX's spelling where it has
    one. Any other text gives UNKNOWN.
    """
    from debian import copyright as dep5  # noqa: PLC0415 the packager's machine has it

    # The library logs a warning for every outdated Format line.
    logging.getLogger("debian").setLevel(logging.CRITICAL)

    try:
        parsed = dep5.Copyright(text.splitlines(keepends=True), strict=False)
        stanzas: list[Any] = [stanza.license for stanza in parsed.all_files_paragraphs()]
    except (dep5.Error, ValueError, TypeError, KeyError, RecursionError):
        return UNKNOWN
    names = {found.synopsis.strip() for found in stanzas if found and found.synopsis}
    expressions = {_debian(name) for name in names}
    if not names or "" in expressions or len(expressions) > MAX_NAMES:
        return stated(_debian(name) or name for name in names)
    ordered = sorted(expressions)
    if len(ordered) == 1:
        return Licence(ordered[0])
    return Licence(" AND ".join(f"({one})" if " " in one else one for one in ordered))


@cache
def _debian(synopsis: str) -> str:
    """Convert one License field to SPDX; "" if a word in it is not defined by the standard."""
    words = synopsis.split()
    translated = []
    for word in words:
        if word.lower() in {"or", "and"}:
            translated.append(word.upper())
        elif match := GNU.fullmatch(word):
            number = match[2] if "." in match[2] else f"{match[2]}.0"
            suffix = "or-later" if match[3] else "only"
            translated.append(f"{match[1].upper()}-{number}-{suffix}")
        elif known := DEBIAN.get(word.lower()):
            translated.append(known)
        elif AS_IN_SPDX.fullmatch(word):
            translated.append(word)
        else:
            return ""
    return canonical(" ".join(translated))
