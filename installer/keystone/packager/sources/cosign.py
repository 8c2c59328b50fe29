"""Verify cosign signatures of images with a known public key. Pure functions on bytes.

There are two formats. "Simple signing" (cosign 1 and 2, SIGNATURE_SPEC.md): a JSON payload that
names the image's digest, with its signature in the layer's annotation. A Sigstore bundle (cosign
3): a DSSE envelope around an in-toto statement whose subject is the image. For both, this module
uses only the signed content, and parses it only after verifying the signature.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keystone import log
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, UntrustedBundleError
from keystone.packager import foreign_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE_TYPES = frozenset({SIMPLE_SIGNING, BUNDLE})
ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_KIND = "cosign container image signature"
IN_TOTO = "application/vnd.in-toto+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
MAX_SIGNATURES = 8
MAX_SIGNATURE = 64 << 10
"""Bytes; both limits bound the work that an attacker can cause (CVE-2024-29902, CVE-2023-33957)."""


@dataclass(frozen=True)
class Key:
    """A public key (ECDSA P-256). name: the file that it was read from."""

    name: str
    public: ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Signature:
    """A signature from a registry, not verified yet."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)


def load_key(path: Path) -> Key:
    """Load a public key from a PEM file. Raises ConfigurationError for other kinds of keys."""
    try:
        public = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: not a public key in PEM: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise ConfigurationError(
            f"{path}: not an ECDSA P-256 key", hint="make one: cosign generate-key-pair"
        )
    return Key(str(path), public)


def require(what: str, digest: Digest, signatures: Iterable[Signature], keys: Sequence[Key]) -> Key:
    """Return the key that signed exactly this digest. Raises UntrustedBundleError without one.

    what: the image, for the error message.
    """
    count = 0
    others: set[str] = set()
    for signature in signatures:
        count += 1
        for key in keys:
            signed = signed_digests(signature, key)
            if digest in signed:
                return key
            others |= {str(other) for other in signed}
    reasons = "it has no signature"
    if others:
        reasons = f"the signature is for {', '.join(sorted(others))}"
    elif count:
        reasons = f"it has {log.count(count, 'signature')}, none of them by this key"
    names = ", ".join(key.name for key in keys)
    raise UntrustedBundleError(
        f"{what}: {digest} is not signed by {names}: {reasons}",
        hint="ask upstream; do not use the image until it is signed",
    )


def signed_digests(signature: Signature, key: Key) -> frozenset[Digest]:
    """Return the digests that the key signed with this signature; none if it does not verify."""
    try:
        if len(signature.data) > MAX_SIGNATURE:
            return frozenset()
        if signature.media_type == SIMPLE_SIGNING:
            return _simple(signature, key)
        if signature.media_type == BUNDLE:
            return _bundle(foreign_json.loads(signature.data), key)
    except (*foreign_json.WRONG, InvalidSignature):
        # It is not a signature of an image by this key.
        return frozenset()
    return frozenset()


def _simple(signature: Signature, key: Key) -> frozenset[Digest]:
    _verify(key, signature.annotations[ANNOTATION], signature.data)
    critical = foreign_json.loads(signature.data)["critical"]
    if critical["type"] != PAYLOAD_KIND:
        return frozenset()
    return frozenset({Digest.parse(critical["image"]["docker-manifest-digest"])})


def _bundle(document: Any, key: Key) -> frozenset[Digest]:  # noqa: ANN401 parsed JSON
    envelope = document["dsseEnvelope"]
    kind, (one,) = envelope["payloadType"], envelope["signatures"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    # Pre-authentication encoding (DSSE v1.0): the type is signed with the payload.
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    _verify(key, one["sig"], encoded)
    if kind != IN_TOTO:
        return frozenset()
    statement = foreign_json.loads(payload)
    if statement["predicateType"] != SIGN_PREDICATE:
        return frozenset()  # an attestation about an image does not approve it (CVE-2026-39395)
    return frozenset(Digest(subject["digest"]["sha256"]) for subject in statement["subject"])


def _verify(key: Key, signature: str, data: bytes) -> None:
    """Verify a signature over `data`. Raises InvalidSignature, ValueError."""
    decoded = base64.b64decode(signature, validate=True)
    key.public.verify(decoded, data, ec.ECDSA(SHA256()))
