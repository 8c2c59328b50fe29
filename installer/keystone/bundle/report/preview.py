"""Open a bundle for reports: verify its signatures and locate its blobs without hashing them.

A blob is hashed only when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.bundle.read import stream as reader
from keystone.bundle.read.bundle import Bundle, read_head
from keystone.bundle.read.stream import TarStream
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DOCUMENT = 512 << 20
"""Maximum bytes of an SBOM or provenance."""


@dataclass(frozen=True)
class Preview:
    """A bundle with verified metadata.

    expires: the earliest expiry of its signatures, ISO 8601. keys: ids of the keys that signed it.
    """

    bundle: Bundle
    expires: str
    keys: tuple[str, ...]

    def document(self, name: str) -> bytes | None:
        """The bytes of a describing item (an SBOM) by its name; None when it is missing.

        Raises DamagedBundleError when it exceeds MAX_DOCUMENT or is not what was signed.
        """
        for item in self.bundle.manifest.items:
            if item.name == name and f"blobs/sha256/{item.digest.hex}" in self.bundle.offsets:
                if item.size > MAX_DOCUMENT:
                    raise DamagedBundleError(
                        f"{name}: {item.size} bytes, the limit is {MAX_DOCUMENT}"
                    )
                with self.bundle.open(item.digest) as file:
                    return file.read()
        return None


def load(path: Path) -> Preview:
    """Verify the metadata of a bundle by any signer, and locate its blobs.

    Raises UntrustedBundleError or DamagedBundleError. For an incomplete bundle, warns and gives the
    blobs that are there.
    """
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot open: {error.strerror}", hint="name the bundle's file"
        ) from error
    with stream:
        archive = TarStream(stream)
        head = read_head(archive, verify.Pin(confirm=lambda _: True))
        bundle = Bundle(path, head.manifest, head.verified, {})
        if bundle.is_delta:
            log.warn(f"{path}: this is a delta: the report covers only the blobs that it carries")
        offsets: dict[str, int] = {}
        try:
            for content in reader.contents(
                archive, head.verified.targets, head.manifest, exact=False
            ):
                offsets[content.name] = archive.position
                content.skip()
        except DamagedBundleError as error:
            log.warn(f"{path}: {error.message}")
    expires, keys = _signatures(head.verified.files)
    return Preview(replace(bundle, offsets=offsets), expires, keys)


def _signatures(files: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """Earliest expiry and key ids, from metadata that python-tuf has verified."""
    documents: list[dict[str, Any]] = [json.loads(data) for data in files.values()]
    others = [doc for doc in documents if doc["signed"]["_type"] != "root"]
    targets = next(doc for doc in others if doc["signed"]["_type"] == "targets")
    keys = tuple(sorted(str(signature["keyid"]) for signature in targets["signatures"]))
    return min(str(document["signed"]["expires"]) for document in others), keys
