"""Licences as they are stated: SPDX expressions where a standard says so, their words otherwise."""

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
# Debian's machine-readable copyright format 1.0, "License specification", against the SPDX list.
# "MIT" is not among them: the standard says that there are many, and calls SPDX's one Expat.
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
    """What is stated as an SPDX expression; its words when it is none."""
    expression = canonical(text)
    return Licence(expression) if expression else stated([text])


def stated(texts: Iterable[str]) -> Licence:
    """Licences by other names, kept as words: they are not translated."""
    names = {" ".join(text.split())[:NAME_CHARACTERS] for text in texts}
    return Licence(names=tuple(sorted(names - {""})[:MAX_NAMES]))


@cache
def canonical(text: str) -> str:
    """The expression with SPDX's spelling, "" when it is not one (SPDX 2.3, annex D)."""
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
    """Of a machine-readable debian/copyright (DEP-5): what all its files need together.

    One name that SPDX does not know makes a list of names of it, each in SPDX's spelling where it
    has one. Any other text says nothing we read.
    """
    from debian import copyright as dep5  # noqa: PLC0415 the packager's machine has it

    # It tells of every old Format line on standard error.
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
    """One License field as SPDX, "" when a word of it has no fixed meaning."""
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
