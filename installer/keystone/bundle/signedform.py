"""The one form that a TUF file may have in a bundle, so that no byte of it is anybody's to choose.

TUF signs the canonical form of `signed`, not the file: spaces, repeated keys, the case of a
signature's digits, more keys beside `signed` and more signatures could all be changed by whoever
carries the bundle. Here a file is exactly what python-tuf writes, with signatures of the role's
own keys only.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from keystone.bundle import strictjson
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SIGNATURES = 16
ASK = "ask whoever guards the bundle's keys"


def require(files: Mapping[str, bytes]) -> None:
    """Check all files of a bundle, oldest root first. Raises UntrustedBundleError (KSB-23, -02)."""
    keys: set[str] = set()
    roles: Any = None
    for name, data in files.items():
        try:
            document = strictjson.load(data)
            if json.dumps(document, sort_keys=True, separators=(",", ":")).encode() != data:
                raise ValueError("not in the form that is signed")
            signatures = _signatures(document)
            if name.endswith(".root.json"):
                # A new root is signed by the old one's keys and by its own (TUF 5.3.4).
                mine = _keys(document, "root")
                allowed, keys = keys | mine, mine
                roles = document
            else:
                allowed = _keys(roles, name.removesuffix(".json"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UntrustedBundleError(
                f"{name}: not plain TUF metadata ({strictjson.brief(error)})",
                hint=ASK,
                code="KSB-23",
            ) from error
        if not signatures:
            raise UntrustedBundleError(f"{name}: not signed", hint=ASK, code="KSB-01")
        if strangers := signatures - allowed:
            raise UntrustedBundleError(
                f"{name}: signed by a key that is not this role's: {min(strangers)}",
                hint=ASK,
                code="KSB-02",
            )


def _signatures(document: Any) -> set[str]:  # noqa: ANN401 any JSON value
    """The key ids that signed. Raises ValueError for anything but plain Ed25519 signatures."""
    if document.keys() != {"signatures", "signed"}:
        raise ValueError("more or less than signatures and signed")
    found = document["signatures"]
    if len(found) > MAX_SIGNATURES or len({one["keyid"] for one in found}) != len(found):
        raise ValueError("too many signatures, or a key twice")
    for one in found:
        if one.keys() != {"keyid", "sig"} or not re.fullmatch(r"[0-9a-f]{128}", one["sig"]):
            raise ValueError("a signature in another form")
    return {str(one["keyid"]) for one in found}


def _keys(root: Any, role: str) -> set[str]:  # noqa: ANN401 any JSON value
    """Who may sign for a role. Raises ValueError when one key hides behind several names."""
    names = root["signed"]["roles"][role]["keyids"]
    values = {root["signed"]["keys"][name]["keyval"]["public"] for name in names}
    if len(values) != len(names):
        raise ValueError(f"one key is listed twice for {role}")
    return set(names)
