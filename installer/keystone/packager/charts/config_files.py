"""Read files inside Kubernetes objects that are not YAML: TOML, INI, properties, XML, scripts.

This module extracts two things: assignments to keys, and the words of command lines. It does not
fully parse any format but TOML, because these two look alike in all of them.
"""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(
    r"[ \t]*(?:-[ \t]+|export[ \t]+|set[ \t]+|local[ \t]+|readonly[ \t]+|ARG[ \t]+|ENV[ \t]+)?"
    r"[\"']?([A-Za-z_][\w.\-/]*)[\"']?[ \t]*(:=|\+=|\?=|=|:)[ \t]*(.*)"
)
_SECTION = re.compile(r"[ \t]*\[[^\]]*\]+[ \t]*(?:[#;].*)?")
_DEFAULT = re.compile(r"\$\{(\w+):?[-=]([^}$]+)\}")
_ELEMENT = re.compile(r"<(\w+)>\s*([^<\s]+)\s*</\1>")
_INNER = re.compile(
    r"[\"'](\w*[iI]mage)[\"']\s*:\s*[\"']([^\"'\s]+)[\"']"
    r"|(?<![\w.-])(\w*[iI]mage)\s+=\s+[\"']([^\"'\s]+)[\"']"
)
"""Within a line: JSON with templates in it, HCL. Not PromQL's {image="x"}, which is a selector."""
_FROM = re.compile(r"(?m)^FROM[ \t]+(?:--\S+[ \t]+)*(\S+)")
_TOKEN = re.compile(r"(?:\\.|[^\s\"'\\`;|&()<>]|\"(?:\\.|[^\"\\])*\"|'[^']*')+", re.DOTALL)
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")


def toml(text: str) -> dict[str, Any] | None:
    """Parse TOML; return None for anything else."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def assignments(text: str) -> Iterator[Mapping[str, str]]:
    """Yield assignments line by line; those of one section of an INI file together."""
    section: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if _SECTION.fullmatch(line) or (match and match[1] in section):
            yield section
            section = {}
        if match and match[2] != ":":
            first, *more = [*_values(match[3]), ""]
            section[match[1]] = first
            yield from ({match[1]: value} for value in more if value)
        elif match:
            yield from ({match[1]: value} for value in _values(match[3]))
    yield section
    yield from ({match[1]: match[2].strip("\"'")} for match in _DEFAULT.finditer(text))
    yield from ({match[1]: match[2]} for match in _ELEMENT.finditer(text))
    yield from ({m[1] or m[3]: m[2] or m[4]} for m in _INNER.finditer(text))
    yield from ({"image": match[1]} for match in _FROM.finditer(text))


def texts(value: object, *, encoded: bool) -> dict[str, str]:
    """Return the text entries of a ConfigMap or Secret. encoded: whether they are in Base64."""
    found = {}
    for key, text in value.items() if isinstance(value, Mapping) else ():
        if isinstance(text, str):
            with suppress(ValueError):
                found[str(key)] = _decoded(text) if encoded else text
    return found


def _decoded(text: str) -> str:
    plain = re.sub(r"[\r\n]", "", text)  # Go's decoder, which Kubernetes uses, skips line breaks
    return base64.b64decode(plain, validate=True).decode()


def tokens(text: str) -> list[str]:
    """Split a shell script into words without quotes; operators such as && separate words."""
    found = _TOKEN.findall(re.sub(r"\\\r?\n", " ", text))
    return [re.sub(r"\\(.)", r"\1", word.replace('"', "").replace("'", "")) for word in found]


def _values(text: str) -> list[str]:
    """Return the value of an assignment, or each value of a list."""
    text = text.strip()
    if text.startswith("["):
        return [one or other for one, other in _QUOTED.findall(text)]
    quoted = _QUOTED.match(text)
    if quoted:
        return [quoted[1] or quoted[2] or ""]
    bare = re.match(r"[^\s\"'#;,{}<]+", text)
    return [bare[0]] if bare else []
