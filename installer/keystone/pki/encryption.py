"""Secrets are encrypted in etcd: the key in the trust tree, and how a running site begins with it.

The tree's file is an EncryptionConfiguration (apiserver.config.k8s.io/v1), equal on all control
planes. What it says first is what API servers write with; each thing that it says can be read. A
new site writes and reads with the key alone. A site whose secrets lie there in plain text takes
three stages, each safe to stop in: all API servers can read what the key encrypts, all write with
it, and, once every secret was written again, none reads plain text.
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
"""The stages, in their order: by which providers the file names, first the one that writes."""
_PROVIDERS = {
    READABLE: ("identity", "secretbox"),
    WRITTEN: ("secretbox", "identity"),
    REQUIRED: ("secretbox",),
}


def ensure(directory: Path, stage: str, *, in_use: Path = Path(PLACE)) -> None:
    """Make the file when the tree has none: with the key that this host's API server uses, if any.

    stage: of a new key's file. in_use: what the role `trust` placed earlier. Raises RefusedError
    where that is there and has no key: a new one in its place would make the loss final. Whether
    another Primer has one, `standing.secrets` asks before.
    """
    file = directory / FILE
    if file.exists():
        return
    if not in_use.exists():
        write_whole(file, document(os.urandom(32), stage).encode(), 0o600)
        return
    if not _keys(in_use):
        raise RefusedError(
            f"{in_use}: has no key of secrets in etcd, and {file} is not there",
            hint=f"copy {PLACE} of another control plane, or the copy beside your snapshots, to "
            f"{file}: with another key no secret of the cluster can be read",
        )
    write_whole(file, in_use.read_bytes(), 0o600)


def document(key: bytes, stage: str) -> str:
    """The file's YAML. key: 32 bytes (XSalsa20 and Poly1305, NaCl's secretbox)."""
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
    """READABLE, WRITTEN or REQUIRED. Raises RefusedError for a file that says something else."""
    names = tuple(_providers(directory / FILE))
    for found, providers in _PROVIDERS.items():
        if names == providers:
            return found
    raise RefusedError(
        f"{directory / FILE}: names the providers {', '.join(names) or 'none'}",
        hint="it names secretbox alone, or with identity before or after it",
    )


def advance(directory: Path, to: str) -> None:
    """Go on to a stage with the same keys."""
    file = directory / FILE
    providers = {"identity": {}, **_providers(file)}
    write_whole(file, _dump(providers, to).encode(), 0o600)


def digest(directory: Path) -> str:
    """As an API server names the file that it has loaded: "sha256:...", in hexadecimal."""
    return f"sha256:{hashlib.sha256((directory / FILE).read_bytes()).hexdigest()}"


def keys(directory: Path) -> tuple[str, ...]:
    """SHA-256 of each key, as the probe names those of a host (`StandingFacts.keys`)."""
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
            f"{file}: not an EncryptionConfiguration that Keystone made: {error!r}",
            hint=f"every control plane has the last good one as {PLACE}",
        ) from error
