"""What a TUF file of ours may look like, checked before python-tuf reads it.

python-tuf follows the specification, which leaves to clients how strict they are. We are: one
algorithm (Ed25519, SHA-256), no delegations, no unsigned fields, every size and count capped, and
one key is one key: TAP 12 lets a key have any id, so the same key under two ids, or in two
spellings of hexadecimal, would count twice towards a threshold.
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
"""Keys of one role."""
MAX_SIGNATURES = 2 * MAX_KEYS
"""Of one file: a root in which every holder changes is signed by the old ones and the new."""
ROLES = ("root", "targets", "snapshot", "timestamp")
NAMES_SNAPSHOT = {"timestamp": "snapshot.json", "snapshot": "targets.json"}
ASK = "ask whoever guards the bundle's keys"

_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX128 = re.compile(r"[0-9a-f]{128}")
_PART = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
_BLOB = "blobs/sha256/"


class _ShapeError(ValueError):
    """What is wrong, and its class."""

    def __init__(self, text: str, code: str = "KSB-23") -> None:
        super().__init__(text)
        self.code = code


def check(name: str, role: str, data: bytes) -> dict[str, Any]:
    """The parsed file. Raises UntrustedBundleError: KSB-23 shape, 13 digests, 04 and 05 keys.

    Nothing in it is believed yet: that its signatures hold is for python-tuf to say.
    """
    try:
        document: dict[str, Any] = strict_json.loads(data)
        _fields(document, "the file", {"signatures": list, "signed": dict}, exact=True)
        _signatures(document["signatures"])
        signed: dict[str, Any] = document["signed"]
        _fields(signed, "signed", {"_type": str, "version": int, "expires": str})
        if signed["_type"] != role or signed["version"] < 1:
            raise _ShapeError(
                f"a {signed['_type'][:20]!r} of version {signed['version']}, not a {role}"
            )
        _CHECKS[role](signed)
    except _ShapeError as error:
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
        raise _ShapeError(f"{what} is not an object")
    for key, kind in wanted.items():
        # bool is an int to Python, and to nobody else.
        if type(value.get(key)) is not kind:
            raise _ShapeError(f"{what}: {key} is not {kind.__name__}")
    if exact and value.keys() != wanted.keys():
        raise _ShapeError(
            f"{what}: fields that nobody signed: {sorted(value.keys() - wanted.keys())}"
        )
    return value


def _signatures(found: list[object]) -> None:
    if len(found) > MAX_SIGNATURES:
        raise _ShapeError(f"{len(found)} signatures, at most {MAX_SIGNATURES} are read", "KSB-20")
    ids = []
    for entry in found:
        one = _fields(entry, "a signature", {"keyid": str, "sig": str}, exact=True)
        if not _HEX64.fullmatch(one["keyid"]) or not _HEX128.fullmatch(one["sig"]):
            raise _ShapeError("a signature is not Ed25519 in lower-case hexadecimal")
        ids.append(one["keyid"])
    if len(set(ids)) != len(ids):
        raise _ShapeError("one key signed twice", "KSB-04")


def _root(signed: dict[str, Any]) -> None:
    _fields(signed, "signed", {"keys": dict, "roles": dict})
    publics = [_key(keyid, key) for keyid, key in signed["keys"].items()]
    if len(set(publics)) != len(publics):
        raise _ShapeError("one key is there under two ids", "KSB-04")
    if len(publics) > MAX_KEYS * len(ROLES):
        raise _ShapeError(f"{len(publics)} keys", "KSB-20")
    if set(signed["roles"]) != set(ROLES):
        raise _ShapeError(f"roles are not {', '.join(ROLES)}")
    for name, entry in signed["roles"].items():
        role = _fields(entry, f"role {name}", {"keyids": list, "threshold": int})
        _role(name, role["keyids"], role["threshold"], signed["keys"])


def _key(keyid: str, value: object) -> str:
    key = _fields(value, "a key", {"keytype": str, "scheme": str, "keyval": dict})
    public = key["keyval"].get("public")
    legal = (key["keytype"], key["scheme"]) == ("ed25519", "ed25519") and _HEX64.fullmatch(keyid)
    if not legal or not isinstance(public, str) or not _HEX64.fullmatch(public):
        raise _ShapeError(f"key {keyid[:64]!r}: not Ed25519 in lower-case hexadecimal")
    return public


def _role(name: str, keyids: list[object], threshold: int, keys: Mapping[str, object]) -> None:
    listed = [keyid for keyid in keyids if isinstance(keyid, str) and keyid in keys]
    if len(listed) != len(keyids) or len(keyids) > MAX_KEYS:
        raise _ShapeError(f"role {name}: keys that are not in the list, or more than {MAX_KEYS}")
    if len(set(listed)) != len(listed):
        raise _ShapeError(f"role {name}: one key is listed twice", "KSB-04")
    if not 1 <= threshold <= len(listed):
        raise _ShapeError(f"role {name}: threshold {threshold} of {len(listed)} keys", "KSB-05")


def _named(signed: dict[str, Any]) -> None:
    """Of timestamp and snapshot: exactly the one file below them."""
    name = NAMES_SNAPSHOT[signed["_type"]]
    _fields(signed, "signed", {"meta": dict})
    if set(signed["meta"]) != {name}:
        raise _ShapeError(f"meta names something else than {name}")
    entry = _fields(
        signed["meta"][name], name, {"version": int, "length": int, "hashes": dict}, exact=True
    )
    if entry["version"] < 1 or entry["length"] < 1:
        raise _ShapeError(f"{name}: version {entry['version']}, length {entry['length']}")
    _sha256(name, entry["hashes"])


def _targets(signed: dict[str, Any]) -> None:
    _fields(signed, "signed", {"targets": dict})
    if "delegations" in signed:
        raise _ShapeError("delegations: a bundle has none")
    for name, entry in signed["targets"].items():
        if not _NAME.fullmatch(name) or len(name) > NAME_BYTES or name.startswith("metadata/"):
            raise _ShapeError(f"{name[:120]!a} is no name of a member", "KSB-14")
        value = _fields(entry, name, {"length": int, "hashes": dict})
        if not 0 <= value["length"] <= MAX_SIZE:
            raise _ShapeError(f"{name}: {value['length']} bytes", "KSB-12")
        digest = _sha256(name, value["hashes"])
        if name.startswith(_BLOB) and name != _BLOB + digest:
            raise _ShapeError(f"{name}: a blob that is called otherwise than its digest", "KSB-13")


def _sha256(name: str, hashes: dict[str, object]) -> str:
    digest = hashes.get("sha256")
    if set(hashes) != {"sha256"} or not isinstance(digest, str) or not _HEX64.fullmatch(digest):
        raise _ShapeError(f"{name}: no plain SHA-256 digest, or another beside it", "KSB-13")
    return digest


_CHECKS = {"root": _root, "timestamp": _named, "snapshot": _named, "targets": _targets}
