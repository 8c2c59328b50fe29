"""Small manifests can name one blob very often; it is read only once."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from keystone.bundle import media, publishable
from keystone.bundle.format import OCI_LAYOUT, Target
from keystone.bundle.model import Digest, Item, Manifest
from keystone.bundle.read import content
from keystone.closure import images
from keystone.closure.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
CONFIG = "application/vnd.oci.image.config.v1+json"
TIMES = 40


class Bundle:
    """Blobs by digest. reads: digests in the order in which they were read from the start."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.reads: list[Digest] = []

    def put(self, document: object, media_type: str) -> dict[str, object]:
        """Add a document and return its descriptor."""
        data = json.dumps(document).encode()
        digest = Digest(hashlib.sha256(data).hexdigest())
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def index(self, *children: dict[str, object]) -> dict[str, object]:
        document = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": children}
        return self.put(document, media.INDEX)

    def size(self, digest: Digest) -> int | None:
        data = self.blobs.get(digest)
        return None if data is None else len(data)

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        if offset == 0:
            self.reads.append(digest)
        return self.blobs[digest][offset : offset + count]

    @contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        self.reads.append(digest)
        yield io.BytesIO(self.blobs[digest])


def nested() -> tuple[Bundle, Manifest]:
    """An index with 40 x 40 references to one image, under 80 names."""
    made = Bundle()
    config = made.put({"os": "linux", "architecture": "amd64"}, CONFIG)
    image = {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": []}
    manifest = made.put(image, media.MANIFEST)
    root = made.index(*[made.index(*[manifest] * TIMES)] * TIMES)
    digest = Digest.parse(root["digest"])
    labels = {"mediaType": media.INDEX}
    size = len(made.blobs[digest])
    items = [
        Item("image", f"r.example/{folder}", f"v{tag}", digest, size, labels, (*made.blobs,))
        for folder in "ab"
        for tag in range(TIMES)
    ]
    return made, Manifest("nested", 1, tuple(items))


def test_publishable_reads_each_manifest_once() -> None:
    made, manifest = nested()
    publishable.check(manifest, made, CREATED)
    assert len(made.reads) == len(set(made.reads)) == 3


def test_content_check_reads_each_manifest_once() -> None:
    made, manifest = nested()
    files = {"oci-layout": OCI_LAYOUT, "index.json": b'{"schemaVersion":2,"manifests":[]}'}
    targets = {
        f"blobs/sha256/{digest.hex}": Target(len(data), digest)
        for digest, data in made.blobs.items()
    } | {name: Target(len(data), Digest("0" * 64)) for name, data in files.items()}
    content.check(manifest, targets, files.__getitem__, made)
    assert len(made.reads) == len(set(made.reads)) == 3


def test_image_check_reads_each_manifest_once() -> None:
    made, manifest = nested()
    one = Manifest("nested", 1, manifest.items[:1])
    inside = Content(one, frozenset(made.blobs), ("amd64",), made.open)
    assert list(images.complete(inside)) == []
    assert len(made.reads) == len(set(made.reads)) == 4
