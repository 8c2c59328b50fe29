"""Attach SBOM and provenance to a bundle as OCI referrers (image-spec v1.1, subject)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keystone.bundle import media

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keystone.bundle.model import Item

DESCRIBING = frozenset({"sbom", "provenance"})
"""Kinds of items that only describe the other items."""
TITLE = "org.opencontainers.image.title"


def manifests(
    items: Iterable[Item], subject: dict[str, object], config: dict[str, object]
) -> Iterator[tuple[str, bytes]]:
    """The artifact type and manifest of each describing item. subject, config: descriptors."""
    bare = {key: subject[key] for key in ("mediaType", "digest", "size")}
    for item in items:
        if item.kind in DESCRIBING:
            kind = item.labels["mediaType"]
            layer: dict[str, Any] = {
                "mediaType": kind,
                "digest": str(item.digest),
                "size": item.size,
                "annotations": {TITLE: item.labels["filename"]},
            }
            document = {
                "schemaVersion": 2,
                "mediaType": media.MANIFEST,
                "artifactType": kind,
                "config": config,
                "layers": [layer],
                "subject": bare,
            }
            yield kind, json.dumps(document, sort_keys=True).encode()
