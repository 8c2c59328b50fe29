"""What a bundle says of itself must be so: contents, OCI layout, charts and debs fit together.

Bytes are the signed ones when this looks; it finds what a careless or bought signer let through
before a registry, containerd, Helm or dpkg meets it. Decides only; `Blobs` brings the bytes.
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
"""Members that are not called by their digest."""
MAX_DEPTH = 4
"""Indexes within indexes; honest ones have two levels."""
ASK = "ask whoever made the bundle: it was signed like this"


def check(
    manifest: Manifest, targets: Mapping[str, Target], read: Callable[[str], bytes], blobs: Blobs
) -> None:
    """Look into everything that others will trust. read: gives oci-layout and index.json.

    Raises DamagedBundleError: KSB-23 to KSB-27 for content of its kind, KSB-11 and KSB-19 for what
    is not there or of another size.
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
    for item in {_looked_at(item): item for item in manifest.items}.values():
        _look(item, blobs, seen)


def _looked_at(item: Item) -> tuple[str, ...]:
    """What _look depends on: a thing with many names is looked at once."""
    what = (item.kind, item.digest.hex, item.labels.get("mediaType", ""))
    if item.kind != "deb":
        return what
    return (*what, item.name, item.version, item.labels.get("architecture", ""))


def _require_listed(manifest: Manifest, targets: Mapping[str, Target]) -> None:
    """The table of contents and the signed list speak of the same things."""
    for name, target in targets.items():
        if name not in FILES and name != f"blobs/sha256/{target.digest.hex}":
            raise DamagedBundleError(
                f"{name}: no name that a bundle's member has", hint=ASK, code="KSB-14"
            )
    for name in LOOSE:
        if name not in targets:
            raise DamagedBundleError(f"{name}: not inside", hint=ASK, code="KSB-19")
        if targets[name].size > media.MAX_MANIFEST:
            raise DamagedBundleError(f"{name}: huge", hint=ASK, code="KSB-20")
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


def _look(item: Item, blobs: Blobs, seen: set[Digest]) -> None:
    """One item by its kind."""
    media_type = item.labels.get("mediaType")
    if item.kind in BY_TAG or (item.kind == "chart" and media_type is not None):
        root = media.Descriptor(media_type or media.MANIFEST, item.digest, item.size)
        # Even when index.json has led here: this item may call it something else.
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
    """A manifest or index, and everything that it names."""
    if found.media_type not in media.ACCEPTED or depth > MAX_DEPTH:
        raise DamagedBundleError(
            f"{owner}: {found.digest} is a {found.media_type!r:.80} {depth} levels down",
            hint=ASK,
            code="KSB-24",
        )
    _require_size(owner, found, blobs)
    if found.digest in seen:
        return
    seen.add(found.digest)
    if found.size > media.MAX_MANIFEST:
        raise DamagedBundleError(f"{owner}: {found.digest} is huge", hint=ASK, code="KSB-24")
    parsed = _parse(f"{owner}: {found.digest}", blobs.read(found.digest, 0, MAX_READ))
    if parsed.media_type != found.media_type:
        raise DamagedBundleError(
            f"{owner}: {found.digest} is a {parsed.media_type}, not a {found.media_type}",
            hint=ASK,
            code="KSB-24",
        )
    for child in parsed.manifests:
        # An index names all platforms; the bundle holds the ones its definition asks for.
        if blobs.size(child.digest) is not None:
            _walk(owner, child, blobs, seen, depth + 1)
    _require_sizes(owner, parsed.blobs, blobs)


def _require_sizes(owner: str, found: Iterable[Descriptor], blobs: Blobs) -> None:
    for descriptor in found:
        _require_size(owner, descriptor, blobs)


def _require_size(owner: str, found: Descriptor, blobs: Blobs) -> None:
    size = blobs.size(found.digest)
    if size is None:
        raise DamagedBundleError(f"{owner}: {found.digest} is not inside", hint=ASK, code="KSB-19")
    if size != found.size:
        raise DamagedBundleError(
            f"{owner}: {found.digest} has {size} bytes, {found.size} are written of it",
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
