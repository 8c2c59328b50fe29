"""Files inside Kubernetes objects that are no YAML: TOML, INI, properties, XML, scripts.

They are read for two things: what is assigned to a key, and the words of a command line. No
format is parsed in full: what is looked for is the same in all of them.
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
"""Within a line: JSON with templates in it, HCL. PromQL's {image="x"} asks for nothing."""
_FROM = re.compile(r"(?m)^FROM[ \t]+(?:--\S+[ \t]+)*(\S+)")
_TOKEN = re.compile(r"(?:\\.|[^\s\"'\\`;|&()<>]|\"(?:\\.|[^\"\\])*\"|'[^']*')+", re.DOTALL)
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")


def toml(text: str) -> dict[str, Any] | None:
    """A file in TOML; None for anything else."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def assignments(text: str) -> Iterator[Mapping[str, str]]:
    """What is assigned to keys, line by line; the keys of one section of an INI file together."""
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


def texts(value: object, *, coded: bool) -> dict[str, str]:
    """What a ConfigMap or Secret carries, as far as it is text. coded: in Base64."""
    found = {}
    for key, text in value.items() if isinstance(value, Mapping) else ():
        if isinstance(text, str):
            with suppress(ValueError):
                found[str(key)] = _decoded(text) if coded else text
    return found


def _decoded(text: str) -> str:
    plain = re.sub(r"[\r\n]", "", text)  # Kubernetes' decoder (Go's) passes over line breaks
    return base64.b64decode(plain, validate=True).decode()


def tokens(text: str) -> list[str]:
    """The words of a shell script, without quotes; what an operator joins is two words."""
    found = _TOKEN.findall(re.sub(r"\\\r?\n", " ", text))
    return [re.sub(r"\\(.)", r"\1", word.replace('"', "").replace("'", "")) for word in found]


def _values(text: str) -> list[str]:
    """The value of an assignment, or each of a list."""
    text = text.strip()
    if text.startswith("["):
        return [one or other for one, other in _QUOTED.findall(text)]
    quoted = _QUOTED.match(text)
    if quoted:
        return [quoted[1] or quoted[2] or ""]
    bare = re.match(r"[^\s\"'#;,{}<]+", text)
    return [bare[0]] if bare else []
