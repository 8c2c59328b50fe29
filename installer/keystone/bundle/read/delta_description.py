"""What a delta is: a bundle that leaves out what its receiver has, and says how to fill the gaps.

A delta is a bundle of the same dialect with signed metadata of its own, so whoever can verify a
bundle can verify a delta alone. Its members after the table of contents:

    delta.json              this description
    head                    the full bundle's own signed metadata, contents and index, each a
                            patch against the receiver's (frames one after the other)
    keystone-install,       what is new, as in the full bundle
    blobs/sha256/<hex>
    patches/<hex>           what is new and like something the receiver has, by the patch's digest

What is in the full bundle's signed list and not here is left out: the receiver must have it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.bundle import media
from keystone.bundle.format import (
    COPY_AGAIN,
    DELTA,
    INSTALLER,
    LOOSE,
    MANIFEST,
    MAX_BYTES,
    MAX_MANIFEST,
    MAX_ROOTS,
    METADATA,
)
from keystone.bundle.formats import strict_json, unfold
from keystone.bundle.manifest import API_VERSION, NAME, require_kind
from keystone.bundle.model import Digest
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.format import Target
    from keystone.bundle.model import Manifest

KIND = "BundleDelta"
HEAD = "head"
PATCHES = "patches/"
MAX_DESCRIPTION = 2_000_000
"""Of delta.json, in bytes."""
MAX_HEAD = MAX_MANIFEST
"""Of all frames of a head together, in bytes: what they make is as large at most, and changes
little."""
MAX_PATCHES = 4096
_IN_HEAD = re.compile(
    r"metadata/([1-9][0-9]*\.root|timestamp|snapshot|targets)\.json"
    r"|keystone\.json|oci-layout|index\.json"
)


_PATCHED = re.compile(rf"blobs/sha256/[0-9a-f]{{64}}|{re.escape(INSTALLER)}")
_FORM = re.compile(r"[a-z0-9-]{1,20}")
_PATCH = re.compile(rf"{PATCHES}[0-9a-f]{{64}}")


@dataclass(frozen=True)
class HeadFile:
    """A file of the full bundle's head. source: what its frame is a patch against, if anything.

    frame: bytes of its frame in `head`; 0 when the delta's own metadata has the same file.
    """

    name: str
    size: int
    digest: Digest
    source: Digest | None
    frame: int


@dataclass(frozen=True)
class Encoded:
    """A member of the full bundle that comes as a patch. source: the old blob; form: see forms."""

    name: str
    member: str
    source: Digest
    form: str


@dataclass(frozen=True)
class Delta:
    """The description. digest names the full bundle, base the one that the receiver had."""

    name: str
    number: int
    digest: Digest
    base: str
    base_number: int
    head: tuple[HeadFile, ...]
    encoded: tuple[Encoded, ...]
    left_out: int
    left_out_bytes: int


def in_head(name: str) -> bool:
    """Whether a member of a full bundle belongs to the head of a delta."""
    return name.startswith(METADATA) or name in {MANIFEST, *LOOSE}


def is_delta(targets: Mapping[str, Target]) -> bool:
    """Whether a signed list is a delta's."""
    return DELTA in targets


def dump(delta: Delta) -> bytes:
    """The file: JSON, UTF-8, sorted keys, so equal deltas are equal bytes."""
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "from": {"number": delta.base_number, "digest": delta.base},
        "to": {"name": delta.name, "number": delta.number, "digest": str(delta.digest)},
        "head": [
            {
                "name": file.name,
                "size": file.size,
                "digest": str(file.digest),
                "source": str(file.source) if file.source else "",
                "frame": file.frame,
            }
            for file in delta.head
        ],
        "patches": [
            {
                "name": entry.name,
                "member": entry.member,
                "source": str(entry.source),
                "form": entry.form,
            }
            for entry in delta.encoded
        ],
        "leftOut": {"blobs": delta.left_out, "bytes": delta.left_out_bytes},
    }
    return (json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n").encode()


def load(data: bytes) -> Delta:
    """From verified bytes.

    Raises DamagedBundleError: KSB-23 for no description that we know, KSB-20 for one that speaks of
    more than any honest one, KSB-17 for one that speaks of something twice.
    """
    if len(data) > MAX_DESCRIPTION:
        raise _huge(DELTA)
    try:
        document = strict_json.loads(data)
        require_kind(document, KIND)
        found = _parse(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            f"{DELTA}: not a delta this version understands ({strict_json.brief(error)})",
            hint="use the newer keystone-install that whoever made the delta used",
            code="KSB-23",
        ) from error
    _require_plain(found)
    return found


def check(description: Delta, targets: Mapping[str, Target], table: Manifest) -> None:
    """A description fits the signed list and the table of contents that it stands behind.

    Raises DamagedBundleError: KSB-06 for another bundle's name or number, KSB-14 for a name that no
    member of a delta has, KSB-19 for a member that is not there, KSB-20 for a head larger than any,
    KSB-23 for a patch of another form.
    """
    if (description.name, description.number) != (table.name, table.number):
        raise _wrong(DELTA, f"of another bundle than {table.name} number {table.number}", "KSB-06")
    for entry in description.encoded:
        if entry.form not in unfold.KNOWN:
            raise unfold.unknown(entry.form)
    patches = {entry.member for entry in description.encoded}
    for name in (HEAD, *patches):
        if name not in targets:
            raise DamagedBundleError(f"{name:.90}: not inside", hint=COPY_AGAIN, code="KSB-19")
    if targets[HEAD].size > MAX_HEAD:
        raise _huge(HEAD)
    known = {MANIFEST, INSTALLER, DELTA, HEAD}
    for name, target in targets.items():
        legal = name in known or name == f"blobs/sha256/{target.digest.hex}"
        if not legal and not (name in patches and name == f"{PATCHES}{target.digest.hex}"):
            raise DamagedBundleError(
                f"{name}: no name that a member of a delta has", hint=COPY_AGAIN, code="KSB-14"
            )


def check_made(
    description: Delta, made: Mapping[str, Target], carried: Mapping[str, Target]
) -> None:
    """The list of the bundle that is made holds what is carried, patched or left out, as it may.

    Raises DamagedBundleError: KSB-14 for a name that no member of a whole bundle has (so a delta
    makes no delta), KSB-19 for what is carried and not part of it, KSB-17 for what is carried and
    patched, KSB-11 for a patch that is not smaller than what it makes.
    """
    for name, target in made.items():
        whole = in_head(name) or name in {INSTALLER, f"blobs/sha256/{target.digest.hex}"}
        if not whole:
            raise _wrong(name, "no name that a member of a bundle has", "KSB-14")
    own = {MANIFEST, DELTA, HEAD, *(entry.member for entry in description.encoded)}
    for name, target in carried.items():
        if name not in own and made.get(name) != target:
            raise _wrong(name, "carried, and not part of the bundle that is made", "KSB-19")
    for entry in description.encoded:
        if entry.name not in made or in_head(entry.name):
            raise _wrong(entry.name, "patched, and not part of the bundle that is made", "KSB-19")
        if entry.name in carried:
            raise _wrong(entry.name, "carried, and a patch of it too", "KSB-17")
        if carried[entry.member].size >= made[entry.name].size:
            raise _wrong(entry.member, "not smaller than what it makes", "KSB-11")


def _require_plain(found: Delta) -> None:
    """Nothing twice, and no more than an honest one has."""
    if len(found.head) > MAX_ROOTS + len(MAX_BYTES) + len(LOOSE):
        raise _huge(HEAD)
    if len(found.encoded) > MAX_PATCHES:
        raise _huge(PATCHES)
    for file in found.head:
        role = file.name.removesuffix(".json").split(".")[-1].removeprefix(METADATA)
        most = MAX_MANIFEST if file.name == MANIFEST else MAX_BYTES.get(role, media.MAX_MANIFEST)
        if file.size > most:
            raise _huge(file.name)
    for names in (
        [file.name for file in found.head],
        [entry.name for entry in found.encoded],
        [entry.member for entry in found.encoded],
    ):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _wrong(twice, f"twice in {DELTA}", "KSB-17")


def _huge(name: str) -> DamagedBundleError:
    return _wrong(name, "larger or more than any honest one", "KSB-20")


def _wrong(name: str, why: str, code: str) -> DamagedBundleError:
    hint = "have a full bundle made, and say so to whoever made this one"
    return DamagedBundleError(f"{name:.120}: {why}", hint=hint, code=code)


def _parse(document: dict[str, Any]) -> Delta:
    base, to, left = document["from"], document["to"], document["leftOut"]
    return Delta(
        name=_text(to["name"], NAME),
        number=_count(to["number"]),
        digest=Digest.parse(to["digest"]),
        base=str(Digest.parse(base["digest"])),
        base_number=_count(base["number"]),
        head=tuple(
            HeadFile(
                _text(file["name"], _IN_HEAD),
                _count(file["size"], MAX_MANIFEST),
                Digest.parse(file["digest"]),
                Digest.parse(file["source"]) if file["source"] else None,
                _count(file["frame"], MAX_HEAD),
            )
            for file in document["head"]
        ),
        encoded=tuple(
            Encoded(
                _text(entry["name"], _PATCHED),
                _text(entry["member"], _PATCH),
                Digest.parse(entry["source"]),
                _text(entry["form"], _FORM),
            )
            for entry in document["patches"]
        ),
        left_out=_count(left["blobs"]),
        left_out_bytes=_count(left["bytes"]),
    )


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.90} has no place here")
    return value


def _count(value: object, most: int = strict_json.MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {most}")
    return value
