"""Make the inventory of every blob of a lock, once, and cache it by the blob's digest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

from keystone import log
from keystone.files import write_file
from keystone.packager import foreign_json
from keystone.packager.sbom import model, scan
from keystone.packager.sources import cache
from keystone.packager.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.bundle.model import Digest
    from keystone.packager.lock import Lock, LockedBlob
    from keystone.packager.sbom.model import Inventory
    from keystone.packager.sources.upstream import Sources


Inventories: TypeAlias = "Mapping[Digest, Inventory]"


def take(lock: Lock, folder: Path, sources: Sources) -> Inventories:
    """Return every blob's inventory. folder: of the lock file, for local sources.

    Blobs without a cached inventory are read from their sources; remote blobs stay in the cache,
    so that `create` does not download them again. Raises SourceError, ConfigurationError.
    """
    found = {blob.digest: _kept(blob.digest) for blob in lock.blobs}
    wanted = [blob for blob in lock.blobs if found[blob.digest] is None]
    total = sum(blob.size for blob in wanted)
    supply = Supply(folder, sources)
    with (
        supply.ahead(wanted),
        log.progress(f"scan {log.count(len(wanted), 'blob')}", total) as bar,
    ):
        for blob in wanted:
            found[blob.digest] = _scan(blob, supply)
            bar.advance(blob.size)
    return {digest: inventory for digest, inventory in found.items() if inventory is not None}


def _scan(blob: LockedBlob, supply: Supply) -> Inventory:
    inventory = scan.scan(supply.open(blob))
    for note in inventory.notes:
        log.warn(f"{blob.digest} ({blob.source.partition(chr(10))[0][:100]}): {note}")
    data = json.dumps(model.to_json(inventory), sort_keys=True).encode()
    write_file(_path(blob.digest), data)
    return inventory


def _path(digest: Digest) -> Path:
    return cache.root() / f"sbom/{model.SCANNER}" / f"{digest.hex}.json"


def _kept(digest: Digest) -> Inventory | None:
    try:
        return model.from_json(foreign_json.loads(_path(digest).read_bytes()))
    except FileNotFoundError:
        return None
    except foreign_json.WRONG as error:
        log.debug(f"{_path(digest)}: not readable, scanning the blob again: {error}")
        return None
