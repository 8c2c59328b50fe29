"""A bundle to look at: signatures verified, blobs only found, each hashed when it is read."""

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


@dataclass(frozen=True)
class Looked:
    """expires: when the first of the signatures ends, ISO 8601. keys: ids of who signed."""

    bundle: Bundle
    expires: str
    keys: tuple[str, ...]

    def document(self, name: str) -> bytes | None:
        """The bytes of a describing item (an SBOM) by its name; None when it is not inside."""
        for item in self.bundle.manifest.items:
            if item.name == name and f"blobs/sha256/{item.digest.hex}" in self.bundle.offsets:
                if item.size > MAX_DOCUMENT:
                    raise DamagedBundleError(f"{name}: {item.size} bytes are no honest document")
                with self.bundle.open(item.digest) as file:
                    return file.read()
        return None


def look(path: Path) -> Looked:
    """Verify the metadata of any bundle, whoever signed it, and find its blobs.

    Raises UntrustedBundleError or DamagedBundleError; a bundle that is cut is looked at as far as
    it goes, with a warning.
    """
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot be opened: {error.strerror}", hint="give the bundle's file"
        ) from error
    with stream:
        archive = TarStream(stream)
        head = read_head(archive, verify.Pin(confirm=lambda _: True))
        bundle = Bundle(path, head.manifest, head.verified, {})
        if bundle.is_delta:
            log.warn(f"{path}: a delta: only what it carries can be looked at")
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
    return Looked(replace(bundle, offsets=offsets), expires, keys)


def _signatures(files: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """From metadata that python-tuf has verified."""
    documents: list[dict[str, Any]] = [json.loads(data) for data in files.values()]
    others = [doc for doc in documents if doc["signed"]["_type"] != "root"]
    targets = next(doc for doc in others if doc["signed"]["_type"] == "targets")
    keys = tuple(sorted(str(signature["keyid"]) for signature in targets["signatures"]))
    return min(str(document["signed"]["expires"]) for document in others), keys
