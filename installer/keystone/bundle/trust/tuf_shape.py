"""Check the structure of a TUF file before python-tuf reads it.

The specification, which python-tuf follows, lets clients choose how strict they are. This module
is strict: only Ed25519 and SHA-256, no delegations, no unsigned fields, a limit for every size and
count, and no duplicate keys: TAP 12 lets a key have any id, so the same key under two ids, or in
two spellings of hexadecimal, would count twice towards a threshold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from keystone.bundle.formats import strict_json
from keystone.bundle.formats.tar import MAX_SIZE, NAME_BYTES
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_KEYS = 8
"""Maximum keys of one role."""
MAX_SIGNATURES = 2 * MAX_KEYS
"""Maximum signatures of one file: old and new holders sign a root that replaces all holders."""
ROLES = ("root", "targets", "snapshot", "timestamp")
NAMES_SNAPSHOT = {"timestamp": "snapshot.json", "snapshot": "targets.json"}
ASK = "ask the holders of the bundle's keys"

_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX128 = re.compile(r"[0-9a-f]{128}")
_PART = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
_BLOB = "blobs/sha256/"


class _StructureError(ValueError):
    """An error in the structure of a TUF file, with its error code."""

    def __init__(self, text: str, code: str = "KSB-23") -> None:
        super().__init__(text)
        self.code = code


def check(name: str, role: str, data: bytes) -> dict[str, Any]:
    """Parse and check a TUF file. role: the expected role.

    Raises UntrustedBundleError: KSB-23 for the structure, KSB-12 and KSB-20 for sizes and counts,
    KSB-13 for digests, KSB-14 for names, KSB-04 and KSB-05 for keys. The result is not trusted yet:
    python-tuf verifies the signatures.
    """
    try:
        document: dict[str, Any] = strict_json.loads(data)
        _fields(document, "the file", {"signatures": list, "signed": dict}, exact=True)
        _signatures(document["signatures"])
        signed: dict[str, Any] = document["signed"]
        _fields(signed, "signed", {"_type": str, "version": int, "expires": str})
        if signed["_type"] != role or signed["version"] < 1:
            raise _StructureError(
                f"a {signed['_type'][:20]!r} of version {signed['version']}, not a {role}"
            )
        _CHECKS[role](signed)
    except _StructureError as error:
        raise UntrustedBundleError(f"{name}: {error}", hint=ASK, code=error.code) from error
    except ValueError as error:
        raise UntrustedBundleError(
            f"{name}: not TUF metadata: {error}", hint=ASK, code="KSB-23"
        ) from error
    return document


def _fields(
    value: object, what: str, wanted: Mapping[str, type], *, exact: bool = False
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _StructureError(f"{what} is not an object")
    for key, kind in wanted.items():
        # In Python, bool is a subclass of int.
        if type(value.get(key)) is not kind:
            raise _StructureError(f"{what}: {key} is not {kind.__name__}")
    if exact and value.keys() != wanted.keys():
        raise _StructureError(f"{what}: unexpected fields: {sorted(value.keys() - wanted.keys())}")
    return value


def _signatures(found: list[object]) -> None:
    if len(found) > MAX_SIGNATURES:
        raise _StructureError(f"{len(found)} signatures, the limit is {MAX_SIGNATURES}", "KSB-20")
    ids = []
    for entry in found:
        one = _fields(entry, "a signature", {"keyid": str, "sig": str}, exact=True)
        if not _HEX64.fullmatch(one["keyid"]) or not _HEX128.fullmatch(one["sig"]):
            raise _StructureError("a signature is not Ed25519 in lower-case hexadecimal")
        ids.append(one["keyid"])
    if len(set(ids)) != len(ids):
        raise _StructureError("two signatures by one key", "KSB-04")


def _root(signed: dict[str, Any]) -> None:
    _fields(signed, "signed", {"keys": dict, "roles": dict})
    publics = [_key(keyid, key) for keyid, key in signed["keys"].items()]
    if len(set(publics)) != len(publics):
        raise _StructureError("one key has two ids", "KSB-04")
    if len(publics) > MAX_KEYS * len(ROLES):
        raise _StructureError(
            f"{len(publics)} keys, the limit is {MAX_KEYS * len(ROLES)}", "KSB-20"
        )
    if set(signed["roles"]) != set(ROLES):
        raise _StructureError(f"roles are not {', '.join(ROLES)}")
    for name, entry in signed["roles"].items():
        role = _fields(entry, f"role {name}", {"keyids": list, "threshold": int})
        _role(name, role["keyids"], role["threshold"], signed["keys"])


def _key(keyid: str, value: object) -> str:
    key = _fields(value, "a key", {"keytype": str, "scheme": str, "keyval": dict})
    public = key["keyval"].get("public")
    legal = (key["keytype"], key["scheme"]) == ("ed25519", "ed25519") and _HEX64.fullmatch(keyid)
    if not legal or not isinstance(public, str) or not _HEX64.fullmatch(public):
        raise _StructureError(f"key {keyid[:64]!r}: not Ed25519 in lower-case hexadecimal")
    return public


def _role(name: str, keyids: list[object], threshold: int, keys: Mapping[str, object]) -> None:
    listed = [keyid for keyid in keyids if isinstance(keyid, str) and keyid in keys]
    if len(listed) != len(keyids) or len(keyids) > MAX_KEYS:
        raise _StructureError(f"role {name}: unknown keys, or more than {MAX_KEYS}")
    if len(set(listed)) != len(listed):
        raise _StructureError(f"role {name}: one key is listed twice", "KSB-04")
    if not 1 <= threshold <= len(listed):
        raise _StructureError(f"role {name}: threshold {threshold} of {len(listed)} keys", "KSB-05")


def _named(signed: dict[str, Any]) -> None:
    """Check timestamp or snapshot: `meta` names exactly the one file that it signs."""
    name = NAMES_SNAPSHOT[signed["_type"]]
    _fields(signed, "signed", {"meta": dict})
    if set(signed["meta"]) != {name}:
        raise _StructureError(f"meta must name {name} and nothing else")
    entry = _fields(
        signed["meta"][name], name, {"version": int, "length": int, "hashes": dict}, exact=True
    )
    if entry["version"] < 1 or entry["length"] < 1:
        raise _StructureError(f"{name}: version {entry['version']}, length {entry['length']}")
    _sha256(name, entry["hashes"])


def _targets(signed: dict[str, Any]) -> None:
    _fields(signed, "signed", {"targets": dict})
    if "delegations" in signed:
        raise _StructureError("delegations are not allowed in a bundle")
    for name, entry in signed["targets"].items():
        if not _NAME.fullmatch(name) or len(name) > NAME_BYTES or name.startswith("metadata/"):
            raise _StructureError(f"{name[:120]!a} is not a valid name of a member", "KSB-14")
        value = _fields(entry, name, {"length": int, "hashes": dict})
        if not 0 <= value["length"] <= MAX_SIZE:
            raise _StructureError(f"{name}: {value['length']} bytes", "KSB-12")
        digest = _sha256(name, value["hashes"])
        if name.startswith(_BLOB) and name != _BLOB + digest:
            raise _StructureError(f"{name}: the name of the blob is not its digest", "KSB-13")


def _sha256(name: str, hashes: dict[str, object]) -> str:
    digest = hashes.get("sha256")
    if set(hashes) != {"sha256"} or not isinstance(digest, str) or not _HEX64.fullmatch(digest):
        raise _StructureError(f"{name}: must have exactly one digest, a valid SHA-256", "KSB-13")
    return digest


_CHECKS = {"root": _root, "timestamp": _named, "snapshot": _named, "targets": _targets}
