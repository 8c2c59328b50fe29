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

from keystone.bundle import strict_json
from keystone.bundle.manifest import API_VERSION, require_kind
from keystone.bundle.model import Digest
from keystone.bundle.reader import COPY_AGAIN, INSTALLER, LOOSE, MANIFEST, MAX_MANIFEST, METADATA
from keystone.bundle.trust import DELTA
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.bundle.reader import Target

KIND = "BundleDelta"
HEAD = "head"
PATCHES = "patches/"
_IN_HEAD = re.compile(
    r"metadata/([1-9][0-9]*\.root|timestamp|snapshot|targets)\.json"
    r"|keystone\.json|oci-layout|index\.json"
)


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
    """From verified bytes. Raises DamagedBundleError (KSB-23) for no description that we know."""
    try:
        document = strict_json.loads(data)
        require_kind(document, KIND)
        return _parse(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            f"{DELTA}: not a delta this version understands ({strict_json.brief(error)})",
            hint="use the newer keystone-install that whoever made the delta used",
            code="KSB-23",
        ) from error


def check(description: Delta, targets: Mapping[str, Target]) -> None:
    """A description and the signed list that it stands in speak of the same members.

    Raises DamagedBundleError: KSB-14 for a name that no member of a delta has, KSB-19 for a member
    that is not there.
    """
    patches = {entry.member for entry in description.encoded}
    for name in (HEAD, *patches):
        if name not in targets:
            raise DamagedBundleError(f"{name}: not inside", hint=COPY_AGAIN, code="KSB-19")
    known = {MANIFEST, INSTALLER, DELTA, HEAD}
    for name, target in targets.items():
        legal = name in known or name == f"blobs/sha256/{target.digest.hex}"
        if not legal and not (name in patches and name == f"{PATCHES}{target.digest.hex}"):
            raise DamagedBundleError(
                f"{name}: no name that a member of a delta has", hint=COPY_AGAIN, code="KSB-14"
            )


def _parse(document: dict[str, Any]) -> Delta:
    base, to, left = document["from"], document["to"], document["leftOut"]
    return Delta(
        name=str(to["name"]),
        number=_count(to["number"]),
        digest=Digest.parse(to["digest"]),
        base=str(base["digest"]),
        base_number=_count(base["number"]),
        head=tuple(
            HeadFile(
                _head_name(file["name"]),
                _count(file["size"], MAX_MANIFEST),
                Digest.parse(file["digest"]),
                Digest.parse(file["source"]) if file["source"] else None,
                _count(file["frame"], MAX_MANIFEST),
            )
            for file in document["head"]
        ),
        encoded=tuple(
            Encoded(
                str(entry["name"]),
                str(entry["member"]),
                Digest.parse(entry["source"]),
                str(entry["form"]),
            )
            for entry in document["patches"]
        ),
        left_out=_count(left["blobs"]),
        left_out_bytes=_count(left["bytes"]),
    )


def _head_name(value: object) -> str:
    if not isinstance(value, str) or not _IN_HEAD.fullmatch(value):
        raise ValueError(f"{value!r:.90} does not belong to a head")
    return value


def _count(value: object, most: int = strict_json.MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {most}")
    return value
