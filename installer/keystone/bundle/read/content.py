"""Check that the content of a bundle is consistent: table of contents, OCI layout, charts, debs.

The bytes are already the signed ones. These checks find content that a careless or bribed signer
signed, before a registry, containerd, Helm or dpkg reads it. `Blobs` supplies the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle import media
from keystone.bundle.format import INSTALLER, LOOSE, MANIFEST, OCI_LAYOUT
from keystone.bundle.model import BY_TAG, Digest
from keystone.bundle.read import chart, deb
from keystone.bundle.read.blobs import MAX_READ
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from keystone.bundle.format import Target
    from keystone.bundle.media import Descriptor
    from keystone.bundle.model import Item, Manifest
    from keystone.bundle.read.blobs import Blobs

FILES = frozenset({MANIFEST, INSTALLER, *LOOSE})
"""Members that are not named by their digest."""
MAX_DEPTH = 4
"""Maximum depth of nested indexes; real ones have two levels."""
ASK = "tell the packager who made the bundle: it was signed with this content"


def check(
    manifest: Manifest, targets: Mapping[str, Target], read: Callable[[str], bytes], blobs: Blobs
) -> None:
    """Check all content that other programs will trust. read: returns oci-layout and index.json.

    Raises DamagedBundleError: KSB-23 to KSB-27 for invalid content, KSB-14 for a member's name,
    KSB-11 for a wrong size, KSB-19 for missing content, KSB-20 for a file above its size limit.
    """
    _require_listed(manifest, targets)
    if read("oci-layout") != OCI_LAYOUT:
        raise DamagedBundleError("oci-layout: not version 1.0.0", hint=ASK, code="KSB-24")
    index = _parse("index.json", read("index.json"))
    if index.media_type != media.INDEX:
        raise DamagedBundleError("index.json: not an OCI index", hint=ASK, code="KSB-24")
    seen: set[Digest] = set()
    for child in index.manifests:
        _walk("index.json", child, blobs, seen, 1)
    for item in {_key(item): item for item in manifest.items}.values():
        _check_item(item, blobs, seen)


def _key(item: Item) -> tuple[str, ...]:
    """Everything that _check_item depends on: the same content under many names is checked once."""
    key = (item.kind, item.digest.hex, item.labels.get("mediaType", ""))
    if item.kind != "deb":
        return key
    return (*key, item.name, item.version, item.labels.get("architecture", ""))


def _require_listed(manifest: Manifest, targets: Mapping[str, Target]) -> None:
    """Check that the table of contents and the signed list agree on names and sizes."""
    for name, target in targets.items():
        if name not in FILES and name != f"blobs/sha256/{target.digest.hex}":
            raise DamagedBundleError(
                f"{name}: not a valid name of a bundle member", hint=ASK, code="KSB-14"
            )
    for name in LOOSE:
        if name not in targets:
            raise DamagedBundleError(f"{name}: missing in the bundle", hint=ASK, code="KSB-19")
        if targets[name].size > media.MAX_OCI_MANIFEST:
            raise DamagedBundleError(
                f"{name}: {targets[name].size} bytes, the limit is {media.MAX_OCI_MANIFEST}",
                hint=ASK,
                code="KSB-20",
            )
    sizes = {target.digest: target.size for target in targets.values()}
    for item in manifest.items:
        missing = [one for one in (item.digest, *item.blobs) if one not in sizes]
        if missing:
            raise DamagedBundleError(
                f"{item.kind} {item.name}: {missing[0]} is not in the signed list",
                hint=ASK,
                code="KSB-19",
            )
        if sizes[item.digest] != item.size:
            raise DamagedBundleError(
                f"{item.kind} {item.name}: {item.size} bytes in keystone.json, "
                f"{sizes[item.digest]} in the signed list",
                hint=ASK,
                code="KSB-11",
            )


def _check_item(item: Item, blobs: Blobs, seen: set[Digest]) -> None:
    """Check the content of one item by its kind."""
    media_type = item.labels.get("mediaType")
    if item.kind in BY_TAG or (item.kind == "chart" and media_type is not None):
        root = media.Descriptor(media_type or media.MANIFEST, item.digest, item.size)
        # Check it even if index.json refers to it: this item may give it another media type.
        seen.discard(item.digest)
        _walk(f"{item.kind} {item.name}", root, blobs, seen, 1)
        if item.kind == "chart":
            for layer in _parse(item.name, blobs.read(item.digest, 0, MAX_READ)).blobs:
                if layer.media_type == chart.LAYER:
                    chart.check(item, layer.digest, blobs)
    elif item.kind == "chart":
        chart.check(item, item.digest, blobs)
    elif item.kind == "deb":
        deb.check(item, blobs)


def _walk(owner: str, found: Descriptor, blobs: Blobs, seen: set[Digest], depth: int) -> None:
    """Check a manifest or index, and everything that it refers to."""
    if found.media_type not in media.ACCEPTED or depth > MAX_DEPTH:
        raise DamagedBundleError(
            f"{owner}: {found.digest} has media type {found.media_type!r:.80} at depth {depth}",
            hint=ASK,
            code="KSB-24",
        )
    _require_size(owner, found, blobs)
    if found.digest in seen:
        return
    seen.add(found.digest)
    if found.size > media.MAX_OCI_MANIFEST:
        raise DamagedBundleError(
            f"{owner}: {found.digest} has {found.size} bytes, "
            f"the limit is {media.MAX_OCI_MANIFEST}",
            hint=ASK,
            code="KSB-24",
        )
    parsed = _parse(f"{owner}: {found.digest}", blobs.read(found.digest, 0, MAX_READ))
    if parsed.media_type != found.media_type:
        raise DamagedBundleError(
            f"{owner}: {found.digest} is a {parsed.media_type}, not a {found.media_type}",
            hint=ASK,
            code="KSB-24",
        )
    for child in parsed.manifests:
        # An index names all platforms; the bundle holds only those that its definition selects.
        if blobs.size(child.digest) is not None:
            _walk(owner, child, blobs, seen, depth + 1)
    _require_sizes(owner, parsed.blobs, blobs)


def _require_sizes(owner: str, found: Iterable[Descriptor], blobs: Blobs) -> None:
    for descriptor in found:
        _require_size(owner, descriptor, blobs)


def _require_size(owner: str, found: Descriptor, blobs: Blobs) -> None:
    size = blobs.size(found.digest)
    if size is None:
        raise DamagedBundleError(
            f"{owner}: {found.digest} is not in the bundle", hint=ASK, code="KSB-19"
        )
    if size != found.size:
        raise DamagedBundleError(
            f"{owner}: {found.digest} has {size} bytes, its descriptor states {found.size}",
            hint=ASK,
            code="KSB-11",
        )


def _parse(where: str, data: bytes) -> media.Parsed:
    try:
        return media.parse(data)
    except DamagedBundleError as error:
        raise DamagedBundleError(
            f"{where}: {error.message}", hint=error.hint or ASK, code=error.code
        ) from error
