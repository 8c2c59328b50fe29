"""Encryption of secrets in etcd: the key in the trust tree, and its introduction on a running site.

The tree's file is an EncryptionConfiguration (apiserver.config.k8s.io/v1), the same on all control
planes. API servers write with its first provider and read with all of them. A new site writes and
reads only with the key. A site whose secrets are in plain text goes through three stages, and can
safely stop in each: all API servers can read with the key; all write with it; and, after every
secret was written again, none reads plain text.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone.errors import RefusedError
from keystone.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "encryption.yaml"
PLACE = "/etc/kubernetes/pki/encryption.yaml"
READABLE, WRITTEN, REQUIRED = "readable", "written", "required"
"""The stages, in order. Each has its list of providers, of which the first one writes."""
_PROVIDERS = {
    READABLE: ("identity", "secretbox"),
    WRITTEN: ("secretbox", "identity"),
    REQUIRED: ("secretbox",),
}


def ensure(directory: Path, stage: str, *, in_use: Path = Path(PLACE)) -> None:
    """Make the file when the tree has none, with the key that this host's API server uses, if any.

    stage: of the file if the key is new. in_use: the file that the role `trust` placed earlier.
    Raises RefusedError when that file exists without a key: a new key would overwrite it and make
    the loss permanent. `standing.secrets` checks before whether another Primer has a key.
    """
    file = directory / FILE
    if file.exists():
        return
    if not in_use.exists():
        write_whole(file, document(os.urandom(32), stage).encode(), 0o600)
        return
    if not _keys(in_use):
        raise RefusedError(
            f"{in_use}: has no key for secrets in etcd, and {file} does not exist",
            hint=f"copy {PLACE} of another control plane, or the copy beside your snapshots, to "
            f"{file}: with another key no secret of the cluster can be read",
        )
    write_whole(file, in_use.read_bytes(), 0o600)


def document(key: bytes, stage: str) -> str:
    """Return the file's YAML. key: 32 bytes (XSalsa20 and Poly1305, NaCl's secretbox)."""
    keys = [{"name": "key1", "secret": base64.b64encode(key).decode()}]
    return _dump({"secretbox": {"keys": keys}, "identity": {}}, stage)


def _dump(providers: Mapping[str, object], stage: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {
                    "resources": ["secrets"],
                    "providers": [{name: providers[name]} for name in _PROVIDERS[stage]],
                }
            ],
        },
        sort_keys=False,
    )


def stage(directory: Path) -> str:
    """Return READABLE, WRITTEN or REQUIRED. Raises RefusedError for other lists of providers."""
    names = tuple(_providers(directory / FILE))
    for found, providers in _PROVIDERS.items():
        if names == providers:
            return found
    raise RefusedError(
        f"{directory / FILE}: has unexpected providers: {', '.join(names) or 'none'}",
        hint="Keystone writes secretbox alone, or with identity before or after it; restore the "
        "file from a copy",
    )


def advance(directory: Path, to: str) -> None:
    """Write the file for the stage `to`, with the same keys."""
    file = directory / FILE
    providers = {"identity": {}, **_providers(file)}
    write_whole(file, _dump(providers, to).encode(), 0o600)


def digest(directory: Path) -> str:
    """Return the hash by which an API server names the file that it loaded: "sha256:<64 hex>"."""
    return f"sha256:{hashlib.sha256((directory / FILE).read_bytes()).hexdigest()}"


def keys(directory: Path) -> tuple[str, ...]:
    """Return the SHA-256 of each key, as the probe does for a host (`StandingFacts.keys`)."""
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in _keys(directory / FILE))


def _keys(file: Path) -> list[str]:
    found = _providers(file).get("secretbox") or {}
    try:
        return [str(key["secret"]) for key in found["keys"]]
    except (LookupError, TypeError):
        return []


def _providers(file: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(file.read_text())["resources"][0]["providers"]
        return {name: value for entry in entries for name, value in entry.items()}
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise RefusedError(
            f"{file}: not an EncryptionConfiguration of Keystone: {error!r}",
            hint=f"restore it from a control plane: each has the last valid one as {PLACE}",
        ) from error
