"""The one form that a TUF file may have in a bundle, so that no byte of it is anybody's to choose.

TUF signs the canonical form of `signed`, not the file: spaces, repeated keys, the case of a
signature's digits, more keys beside `signed` and more signatures could all be changed by whoever
carries the bundle. Here a file is exactly what python-tuf writes, with signatures of the role's
own keys only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keystone.bundle import strict_json
from keystone.bundle.shape import ASK
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(files: Mapping[str, bytes]) -> None:
    """Check all files of a bundle that was verified, oldest root first.

    Raises UntrustedBundleError: KSB-23 for another form, KSB-02 for a stranger's signature beside
    the good ones.
    """
    keys: set[str] = set()
    roles: Any = None
    for name, data in files.items():
        document = strict_json.loads(data)
        if json.dumps(document, sort_keys=True, separators=(",", ":")).encode() != data:
            raise UntrustedBundleError(
                f"{name}: not in the form that python-tuf writes", hint=ASK, code="KSB-23"
            )
        signers = {str(one["keyid"]) for one in document["signatures"]}
        if name.endswith(".root.json"):
            # A new root is signed by the old one's keys and by its own (TUF 5.3.4).
            roles = document["signed"]["roles"]
            mine = set(roles["root"]["keyids"])
            allowed, keys = keys | mine, mine
        else:
            allowed = set(roles[name.removesuffix(".json")]["keyids"])
        if strangers := signers - allowed:
            raise UntrustedBundleError(
                f"{name}: also signed by a key that is not this role's: {min(strangers)}",
                hint=ASK,
                code="KSB-02",
            )
