"""OCI image manifests and indexes, as far as a bundle reads them (image-spec v1.1)."""

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
"""Referrers tag schema: what is attached to sha256:<hex> has the tag sha256-<hex>."""
DESCRIBES = "vnd.docker.reference.digest"
MAX_MANIFEST = 4 << 20
"""Bytes; the distribution specification asks registries to take at least this much."""
MAX_NESTED = 3
"""Indexes in each other, the outermost counted; `layout` takes a manifest below the third."""
NAMES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
"""What some builders call machines, as containerd normalises it."""
ELSEWHERE = "nondistributable", "rootfs.foreign"
"""Media types of layers that are not meant to travel."""
HINT = "ask for an image that is all there; nothing inside may be fetched from elsewhere"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: media type, digest, size in bytes, "os/architecture[/variant]".

    describes: the digest of the image that it says something about (BuildKit's attestations).
    """

    media_type: str
    digest: Digest
    size: int
    platform: str = ""
    describes: str = ""


@dataclass(frozen=True)
class Parsed:
    """What an image manifest or index points to. blobs: configuration first, then layers."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def platform(text: str) -> str:
    """os/architecture of "os/architecture[/variant]"; "" where one of the two is missing."""
    system, _, machine = text.partition("/")
    machine = machine.partition("/")[0]
    return f"{system}/{NAMES.get(machine, machine)}" if system and machine else ""


def parse(data: bytes) -> Parsed:
    """Read a manifest or an index. Raises DamagedBundleError (KSB-23, -24, -25) for anything else.

    What it says it is must be what it looks like: a document with `manifests` and `layers` is an
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
        raise ValueError("index and manifest at once")
    if document["schemaVersion"] != 2:  # noqa: PLR2004 the only one that names by digest
        raise ValueError("schemaVersion is not 2 (schema 1 names nothing by its digest)")
    kinds = INDEXES if is_index else MANIFESTS
    media_type = document.get("mediaType", kinds[0])
    if media_type not in kinds:
        raise ValueError(f"mediaType {media_type!r} is not what it is")
    if is_index:
        return Parsed(media_type, _descriptors(document["manifests"]), ())
    layers = _descriptors(document["layers"])
    return Parsed(media_type, (), (describe(document["config"]), *layers))


def _descriptors(values: object) -> tuple[Descriptor, ...]:
    if not isinstance(values, list):
        raise TypeError("not a list of descriptors")
    return tuple(describe(value) for value in values)


def describe(value: dict[str, Any]) -> Descriptor:
    """One descriptor (image-spec, descriptor.md), with types as the specification has them.

    Raises ValueError, KeyError, TypeError or AttributeError for what is none.
    """
    where = value.get("platform") or {}
    parts = [where.get("os", ""), where.get("architecture", ""), where.get("variant", "")]
    media_type, size = value["mediaType"], value["size"]
    if not isinstance(media_type, str) or type(size) is not int or size < 0:
        raise TypeError("a descriptor's mediaType or size is of another type")
    if value.get("urls") or any(word in media_type for word in ELSEWHERE):
        raise DamagedBundleError(
            f"{value['digest']!s:.80}: a layer that is to be fetched from elsewhere",
            hint=HINT,
            code="KSB-25",
        )
    digest = Digest.parse(value["digest"])
    if "data" in value:
        inline = base64.b64decode(value["data"], validate=True)
        if len(inline) != size or hashlib.sha256(inline).hexdigest() != digest.hex:
            raise ValueError("a descriptor's data is not what its digest says")
    describes = str((value.get("annotations") or {}).get(DESCRIBES, ""))
    return Descriptor(media_type, digest, size, "/".join(filter(None, parts)), describes)
