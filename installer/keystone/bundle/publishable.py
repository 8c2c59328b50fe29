"""Check that a store can serve a bundle, before the bundle crosses the air gap.

The verified content decides which names are served; this module checks every one of these names
as a path of a store, so `publish` does not refuse it later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone.bundle import served
from keystone.bundle.read.blobs import MAX_READ
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from keystone.bundle.model import Digest, Item, Manifest
    from keystone.bundle.read.blobs import Blobs

ASK = "tell the packager who made the bundle: no Primer can serve it"


def check(manifest: Manifest, blobs: Blobs, created: datetime) -> None:
    """Plan the paths that a store would serve. created: the time of the bundle's lock.

    Raises DamagedBundleError: KSB-14 for names and labels, the codes of read.content.check for
    content.
    """
    files: dict[str, Item] = {}
    folders: dict[str, Item] = {}
    read, memory = _Read(blobs, created), served.Memory()
    for item in manifest.items:
        for name, planned in _planned(item, read, memory):
            _require_path(name, item)
            if planned.link is not None and blobs.size(planned.link) is None:
                raise _refused(item, f"{planned.link} is not in the bundle", "KSB-19")
            files[name] = item
            folders.update((parent, item) for parent in _parents(name))
    for name in files.keys() & folders.keys():
        owner = folders[name]
        raise _refused(
            files[name], f"{name} would be both a file and a folder of {owner.kind} {owner.name}"
        )


def _planned(item: Item, blobs: _Read, memory: served.Memory) -> list[tuple[str, served.Planned]]:
    try:
        return list(served.plan_item(item, blobs, memory))
    except KeyError as error:
        raise _refused(item, f"the label {error} is missing") from error
    except DamagedBundleError as error:
        raise _refused(item, error.message, error.code or "KSB-24") from error


def _require_path(name: str, item: Item) -> None:
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise _refused(item, f"{name!r:.120} is not a valid path in a store")


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _refused(item: Item, text: str, code: str = "KSB-14") -> DamagedBundleError:
    message = f"{item.kind} {item.name}: cannot be served: {text}"
    return DamagedBundleError(message, hint=ASK, code=code)


class _Read:
    """The blobs that planning needs to read, from a bundle or a store."""

    def __init__(self, blobs: Blobs, created: datetime) -> None:
        self._blobs, self._created = blobs, created

    def read(self, digest: Digest) -> bytes:
        """As served.Blobs.read; the blob was hashed before."""
        data, size = bytearray(), self._blobs.size(digest) or 0
        while len(data) < size:
            data += self._blobs.read(digest, len(data), MAX_READ)
        return bytes(data)

    def has(self, digest: Digest) -> bool:
        """As served.Blobs.has."""
        return self._blobs.size(digest) is not None

    def created(self) -> str:
        """As served.Blobs.created."""
        return self._created.isoformat()
