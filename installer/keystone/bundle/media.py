"""OCI image manifests and indexes, as far as a bundle reads them (image-spec v1.1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from keystone.bundle.model import Digest
from keystone.errors import DamagedBundleError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPTED = (INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
SUBJECT_TAG = "sha256-"
"""Referrers tag schema: what is attached to sha256:<hex> has the tag sha256-<hex>."""
DESCRIBES = "vnd.docker.reference.digest"
MAX_MANIFEST = 4 << 20
"""Bytes; the distribution specification asks registries to take at least this much."""


@dataclass(frozen=True)
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


def parse(data: bytes) -> Parsed:
    """Read a manifest or an index. Raises DamagedBundleError for anything else."""
    try:
        document = json.loads(data)
        if "manifests" in document:
            children = tuple(_descriptor(value) for value in document["manifests"])
            return Parsed(document.get("mediaType", INDEX), children, ())
        blobs = [document["config"], *document["layers"]]
        return Parsed(
            document.get("mediaType", MANIFEST), (), tuple(_descriptor(value) for value in blobs)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBundleError(f"not an OCI image manifest or index: {error}") from error


def _descriptor(value: dict[str, Any]) -> Descriptor:
    where = value.get("platform") or {}
    parts = [where.get("os", ""), where.get("architecture", ""), where.get("variant", "")]
    return Descriptor(
        media_type=str(value["mediaType"]),
        digest=Digest.parse(value["digest"]),
        size=int(value["size"]),
        platform="/".join(filter(None, parts)),
        describes=str((value.get("annotations") or {}).get(DESCRIBES, "")),
    )
