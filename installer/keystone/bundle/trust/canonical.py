"""The one form that a TUF file may have in a bundle, so that no byte of it is anybody's to choose.

TUF signs what python-tuf makes of a file, not the file: spaces, the order of keys, "12:00:0Z" for
"12:00:00Z", and more signatures beside the good ones could all be changed by whoever carries the
bundle. Of snapshot and targets the file above names the digest; here the same is done for the
roots and the timestamp: they are exactly what python-tuf writes, signed by the role's keys alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keystone.bundle.trust.tuf_shape import ASK
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(files: Mapping[str, bytes]) -> None:
    """Check all files of a bundle that was verified, oldest root first.

    Raises UntrustedBundleError: KSB-23 for another form, KSB-02 for a stranger's signature beside
    the good ones.
    """
    from tuf.api.metadata import Metadata  # noqa: PLC0415 slow to import

    keys: set[str] = set()
    roles: Any = None
    for name, data in files.items():
        is_root = name.endswith(".root.json")
        if is_root or name == "timestamp.json":
            metadata: Metadata[Any] = Metadata.from_bytes(data)
            if metadata.to_bytes() != data:
                raise UntrustedBundleError(
                    f"{name}: not in the form that was signed", hint=ASK, code="KSB-23"
                )
        document = json.loads(data)
        if is_root:
            # A new root is signed by the old one's keys and by its own (TUF 5.3.4).
            roles = document["signed"]["roles"]
            mine = set(roles["root"]["keyids"])
            allowed, keys = keys | mine, mine
        else:
            allowed = set(roles[name.removesuffix(".json")]["keyids"])
        if strangers := {str(one["keyid"]) for one in document["signatures"]} - allowed:
            raise UntrustedBundleError(
                f"{name}: also signed by a key that is not this role's: {min(strangers)}",
                hint=ASK,
                code="KSB-02",
            )
