"""Parse OCI image manifests and indexes (image-spec v1.1): the parts that a bundle needs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from keystone.bundle.formats import strict_json
from keystone.bundle.model import Digest
from keystone.errors import DamagedBundleError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPTED = (INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_LIST)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
SUBJECT_TAG = "sha256-"
"""Referrers tag schema: an attachment of sha256:<hex> has the tag sha256-<hex>."""
DESCRIBES = "vnd.docker.reference.digest"
MAX_OCI_MANIFEST = 4 << 20
"""Bytes; the distribution specification requires registries to accept at least this much."""
MAX_NESTED = 3
"""Maximum depth of nested indexes, counting the outermost; a manifest may follow the third."""
NAMES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
"""Other names of architectures, normalised as containerd does."""
ELSEWHERE = "nondistributable", "rootfs.foreign"
"""Parts of the media types of layers that are fetched from another place (foreign layers)."""
HINT = "use an image that contains all its layers; nothing can be fetched inside the air gap"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: media type, digest, size in bytes, "os/architecture[/variant]".

    describes: the digest of the image that this attestation belongs to (BuildKit).
    """

    media_type: str
    digest: Digest
    size: int
    platform: str = ""
    describes: str = ""


@dataclass(frozen=True)
class Parsed:
    """The references of an image manifest or index. blobs: the configuration, then the layers."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def platform(text: str) -> str:
    """os/architecture of "os/architecture[/variant]"; "" when one of the two is missing."""
    system, _, machine = text.partition("/")
    machine = machine.partition("/")[0]
    return f"{system}/{NAMES.get(machine, machine)}" if system and machine else ""


def parse(data: bytes) -> Parsed:
    """Parse a manifest or an index. Raises DamagedBundleError (KSB-23, -24, -25) when invalid.

    The mediaType must match the content: a document with both `manifests` and `layers` is an
    image to one reader and an index to another (GHSA-qq97-vm5h-rrhg).
    """
    try:
        document = strict_json.loads(data)
    except ValueError as error:
        raise DamagedBundleError(
            f"not an OCI image manifest or index: {strict_json.brief(error)}", code="KSB-23"
        ) from error
    try:
        return _parsed(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(
            f"not an OCI image manifest or index: {strict_json.brief(error)}", code="KSB-24"
        ) from error


def _parsed(document: dict[str, Any]) -> Parsed:
    is_index = "manifests" in document
    if is_index and document.keys() & {"layers", "config"}:
        raise ValueError("has the fields of an index and of a manifest")
    if document["schemaVersion"] != 2:  # noqa: PLR2004 the only version that refers by digest
        raise ValueError("schemaVersion is not 2 (schema 1 does not refer to blobs by digest)")
    kinds = INDEXES if is_index else MANIFESTS
    media_type = document.get("mediaType", kinds[0])
    if media_type not in kinds:
        raise ValueError(f"mediaType {media_type!r} does not match the content")
    if is_index:
        return Parsed(media_type, _descriptors(document["manifests"]), ())
    layers = _descriptors(document["layers"])
    return Parsed(media_type, (), (describe(document["config"]), *layers))


def _descriptors(values: object) -> tuple[Descriptor, ...]:
    if not isinstance(values, list):
        raise TypeError("not a list of descriptors")
    return tuple(describe(value) for value in values)


def describe(value: dict[str, Any]) -> Descriptor:
    """Parse one descriptor (image-spec, descriptor.md) and check the types of its fields.

    Raises ValueError, KeyError, TypeError or AttributeError when it is not a valid descriptor.
    """
    where = value.get("platform") or {}
    parts = [where.get("os", ""), where.get("architecture", ""), where.get("variant", "")]
    media_type, size = value["mediaType"], value["size"]
    if not isinstance(media_type, str) or type(size) is not int or size < 0:
        raise TypeError("a descriptor's mediaType or size has the wrong type")
    if value.get("urls") or any(word in media_type for word in ELSEWHERE):
        raise DamagedBundleError(
            f"{value['digest']!s:.80}: a foreign layer, which must be fetched from another place",
            hint=HINT,
            code="KSB-25",
        )
    digest = Digest.parse(value["digest"])
    if "data" in value:
        inline = base64.b64decode(value["data"], validate=True)
        if len(inline) != size or hashlib.sha256(inline).hexdigest() != digest.hex:
            raise ValueError("a descriptor's data does not match its digest or size")
    describes = str((value.get("annotations") or {}).get(DESCRIBES, ""))
    return Descriptor(media_type, digest, size, "/".join(filter(None, parts)), describes)
