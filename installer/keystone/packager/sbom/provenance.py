"""Write the source of every blob: an in-toto Statement v1 with SLSA's provenance v1 predicate."""

from __future__ import annotations

import json
import re
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from keystone.documents import packaged_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.model import Digest
    from keystone.packager.lock import Lock

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://keystone.invalid/bundle-lock/v1"
BUILDER = "https://keystone.invalid/keystone-install"
"""Identifiers, not addresses: the domain .invalid is reserved (RFC 2606)."""


def dump(
    lock: Lock, identity: str, version: str, byproducts: Sequence[tuple[str, Digest]]
) -> bytes:
    """Return the statement. Its subjects are the bundle's items.

    identity: hex SHA-256 of the lock without its documents. version: of Keystone. byproducts: names
    and digests of the SBOMs.
    """
    subjects = [(f"{item.kind}/{item.name}@{item.version}", item.digest) for item in lock.items]
    value = {
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": [_resource(name, digest) for name, digest in subjects],
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "bundle": lock.name,
                    "number": lock.number,
                    "architectures": list(lock.architectures),
                    "validDays": lock.valid_days,
                },
                "internalParameters": {},
                "resolvedDependencies": [_lock(lock, identity), *_dependencies(lock)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"keystone": version}},
                "metadata": {
                    "invocationId": f"sha256:{identity}",
                    "startedOn": lock.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
                "byproducts": [_resource(name, digest) for name, digest in byproducts],
            },
        },
    }
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def location(source: str, digest: Digest | None) -> str:
    """Return a lock's source as a URI."""
    kind, _, rest = source.partition(":")
    if kind == "registry":
        host, _, repository = rest.partition("/")
        return f"oci://{host}/{repository}@{digest}"
    if kind in {"local", "built"}:
        return f"urn:keystone:{kind}:{quote(rest)}"
    if kind == "inline":
        # The lock contains the text itself.
        return f"urn:keystone:inline:{digest}"
    # Lock files stay with the packager, but this crosses the gap: remove user and password.
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", source)


def _lock(lock: Lock, identity: str) -> dict[str, Any]:
    return {
        "name": "lock",
        "uri": f"urn:keystone:lock:{quote(lock.name)}:{lock.number}",
        "digest": {"sha256": identity},
    }


def _dependencies(lock: Lock) -> list[dict[str, Any]]:
    names = {item.digest: f"{item.kind} {item.name} {item.version}".rstrip() for item in lock.items}
    return [
        {
            "uri": location(blob.source, blob.digest),
            "digest": {"sha256": blob.digest.hex},
            "mediaType": blob.media_type,
            **({"name": names[blob.digest]} if blob.digest in names else {}),
        }
        for blob in lock.blobs
    ]


def _resource(name: str, digest: Digest) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.hex}}


def validate(data: bytes) -> list[str]:
    """Validate a statement; return the errors, empty if it is valid.

    The schema is ours: in-toto and SLSA publish protocol buffers, not JSON Schemas.
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 slow to import

    validator = Draft202012Validator(packaged_schema("provenance"))
    try:
        return [error.message for error in validator.iter_errors(json.loads(data))]
    except ValueError as error:
        return [f"not JSON: {error}"]
