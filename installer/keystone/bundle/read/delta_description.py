"""delta.json: describes how to make the full bundle from a delta and the receiver's store.

A delta is a bundle of the same tar dialect with its own signed metadata, so it can be verified
alone, like any bundle. Its members after the table of contents:

    delta.json              this description
    head                    the full bundle's signed metadata, contents and index, each as a patch
                            against the receiver's file (concatenated frames)
    keystone-install,       new members, as in the full bundle
    blobs/sha256/<hex>
    patches/<hex>           new blobs as patches against the receiver's blobs, by the patch's digest

The delta leaves out all other members of the full bundle's signed list: the receiver must have
them.
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
"""Maximum size of delta.json in bytes."""
MAX_HEAD = MAX_MANIFEST
"""Maximum size of all frames of a head together, in bytes; they are small, because the files of the
head change little."""
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
    """A file of the full bundle's head.

    size: in bytes. source: the old file that its frame is a patch against, or None. frame: bytes of
    its frame in `head`; 0 when the delta's own metadata contains the same file.
    """

    name: str
    size: int
    digest: Digest
    source: Digest | None
    frame: int


@dataclass(frozen=True)
class Encoded:
    """A member of the full bundle that the delta carries as a patch.

    member: the patch's name. source: the old blob. form: of both blobs (formats/unfold.py).
    """

    name: str
    member: str
    source: Digest
    form: str


@dataclass(frozen=True)
class Delta:
    """The content of delta.json.

    digest names the full bundle, base the receiver's last bundle. left_out: number of blobs that
    the delta leaves out; left_out_bytes: their size.
    """

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
    """Whether a signed list belongs to a delta."""
    return DELTA in targets


def dump(delta: Delta) -> bytes:
    """Encode as JSON, UTF-8, with sorted keys: equal deltas give equal bytes."""
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
    """Parse verified bytes.

    Raises DamagedBundleError: KSB-23 for an unknown or invalid description, KSB-20 for one that
    exceeds a limit, KSB-17 for one that names something twice.
    """
    if len(data) > MAX_DESCRIPTION:
        raise _too_large(DELTA)
    try:
        document = strict_json.loads(data)
        require_kind(document, KIND)
        found = _parse(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            f"{DELTA}: this version cannot read the delta ({strict_json.brief(error)})",
            hint="use the keystone-install version that made the delta",
            code="KSB-23",
        ) from error
    _require_limits(found)
    return found


def check(description: Delta, targets: Mapping[str, Target], table: Manifest) -> None:
    """Check a description against the signed list and table of contents of its delta.

    Raises DamagedBundleError: KSB-06 for another bundle's name or number, KSB-14 for an invalid
    name of a delta's member, KSB-19 for a missing member, KSB-20 for a head above the limit,
    KSB-23 for an unknown form of a patch.
    """
    if (description.name, description.number) != (table.name, table.number):
        raise _wrong(DELTA, f"belongs to a bundle other than {table.name} {table.number}", "KSB-06")
    for entry in description.encoded:
        if entry.form not in unfold.KNOWN:
            raise unfold.unknown(entry.form)
    patches = {entry.member for entry in description.encoded}
    for name in (HEAD, *patches):
        if name not in targets:
            raise DamagedBundleError(
                f"{name:.90}: missing in the delta", hint=COPY_AGAIN, code="KSB-19"
            )
    if targets[HEAD].size > MAX_HEAD:
        raise _too_large(HEAD)
    known = {MANIFEST, INSTALLER, DELTA, HEAD}
    for name, target in targets.items():
        legal = name in known or name == f"blobs/sha256/{target.digest.hex}"
        if not legal and not (name in patches and name == f"{PATCHES}{target.digest.hex}"):
            raise DamagedBundleError(
                f"{name}: not a valid name of a delta member", hint=COPY_AGAIN, code="KSB-14"
            )


def check_made(
    description: Delta, made: Mapping[str, Target], carried: Mapping[str, Target]
) -> None:
    """Check that the full bundle's list contains each member that is carried or patched.

    made: the full bundle's signed list; carried: the delta's.
    Raises DamagedBundleError: KSB-14 for an invalid name of a full bundle's member (so a delta
    cannot make a delta), KSB-19 for a carried or patched member that is not in the full bundle,
    KSB-17 for one that is both carried and patched, KSB-11 for a patch that is not smaller than
    its result.
    """
    for name, target in made.items():
        valid = in_head(name) or name in {INSTALLER, f"blobs/sha256/{target.digest.hex}"}
        if not valid:
            raise _wrong(name, "not a valid name of a bundle member", "KSB-14")
    own = {MANIFEST, DELTA, HEAD, *(entry.member for entry in description.encoded)}
    for name, target in carried.items():
        if name not in own and made.get(name) != target:
            raise _wrong(name, "carried, but not part of the full bundle", "KSB-19")
    for entry in description.encoded:
        if entry.name not in made or in_head(entry.name):
            raise _wrong(entry.name, "patched, but not part of the full bundle", "KSB-19")
        if entry.name in carried:
            raise _wrong(entry.name, "both carried and patched", "KSB-17")
        if carried[entry.member].size >= made[entry.name].size:
            raise _wrong(entry.member, "the patch is not smaller than its result", "KSB-11")


def _require_limits(found: Delta) -> None:
    """Check that nothing appears twice and that no limit is exceeded."""
    if len(found.head) > MAX_ROOTS + len(MAX_BYTES) + len(LOOSE):
        raise _too_large(HEAD)
    if len(found.encoded) > MAX_PATCHES:
        raise _too_large(PATCHES)
    for file in found.head:
        role = file.name.removesuffix(".json").split(".")[-1].removeprefix(METADATA)
        most = (
            MAX_MANIFEST if file.name == MANIFEST else MAX_BYTES.get(role, media.MAX_OCI_MANIFEST)
        )
        if file.size > most:
            raise _too_large(file.name)
    for names in (
        [file.name for file in found.head],
        [entry.name for entry in found.encoded],
        [entry.member for entry in found.encoded],
    ):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _wrong(twice, f"appears twice in {DELTA}", "KSB-17")


def _too_large(name: str) -> DamagedBundleError:
    return _wrong(name, "exceeds the limit of size or number", "KSB-20")


def _wrong(name: str, why: str, code: str) -> DamagedBundleError:
    hint = "ask the packager for a full bundle, and report this delta to them"
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
        raise ValueError(f"{value!r:.90} is not valid here")
    return value


def _count(value: object, most: int = strict_json.MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {most}")
    return value
