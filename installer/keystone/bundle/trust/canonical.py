"""Require the canonical encoding of the TUF files in a bundle, so that nobody can alter a byte.

A TUF signature covers the parsed content of a file, not its bytes. A carrier of the bundle could
change spaces, the order of keys, "12:00:00Z" to "12:00:0Z", or add signatures. The digests in the
metadata protect snapshot and targets. This module protects the roots and the timestamp: they must
be exactly what python-tuf writes, and signed only by keys of their role.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keystone.bundle.trust.tuf_shape import ASK
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(files: Mapping[str, bytes]) -> None:
    """Check all metadata files of a verified bundle, oldest root first.

    Raises UntrustedBundleError: KSB-23 for another encoding, KSB-02 for an additional signature by
    a key that does not belong to the role.
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
                    f"{name}: not in canonical encoding", hint=ASK, code="KSB-23"
                )
        document = json.loads(data)
        if is_root:
            # A new root is signed by the old one's keys and by its own (TUF 5.3.4).
            roles = document["signed"]["roles"]
            mine = set(roles["root"]["keyids"])
            allowed, keys = keys | mine, mine
        else:
            allowed = set(roles[name.removesuffix(".json")]["keyids"])
        if others := {str(one["keyid"]) for one in document["signatures"]} - allowed:
            raise UntrustedBundleError(
                f"{name}: also signed by a key that does not belong to its role: {min(others)}",
                hint=ASK,
                code="KSB-02",
            )
