"""The inventory of every blob of a lock, made once and kept by the blob's digest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, TypeAlias

from keystone import log
from keystone.bundle import cache, writer
from keystone.bundle.addresses import is_loopback
from keystone.bundle.disk import write_file
from keystone.bundle.sbom import model, scan
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from keystone.bundle.lock import Lock, LockedBlob
    from keystone.bundle.model import Digest
    from keystone.bundle.sbom.model import Inventory
    from keystone.bundle.sources import Sources


Inventories: TypeAlias = "Mapping[Digest, Inventory]"


def take(lock: Lock, folder: Path, sources: Sources) -> Inventories:
    """Every blob's inventory. folder: of the lock file, for local sources.

    What is not known yet is read from its source; what came from far away stays in the cache, so
    that `create` need not ask for it again. Raises SourceError or ConfigurationError.
    """
    found = {blob.digest: _kept(blob.digest) for blob in lock.blobs}
    wanted = [blob for blob in lock.blobs if found[blob.digest] is None]
    writer.prefetch(wanted, sources)
    total = sum(blob.size for blob in wanted)
    with log.progress(f"look into {len(wanted)} blobs", total) as bar:
        for blob in wanted:
            found[blob.digest] = _look(blob, folder, sources)
            bar.advance(blob.size)
    return {digest: inventory for digest, inventory in found.items() if inventory is not None}


def _look(blob: LockedBlob, folder: Path, sources: Sources) -> Inventory:
    if _is_far(blob, sources) and not cache.has(blob.digest, blob.size):
        cache.keep(blob.digest, writer.open_source(blob, folder, sources))
    inventory = scan.scan(_checked(blob, writer.open_source(blob, folder, sources)))
    for note in inventory.notes:
        log.warn(f"{blob.digest} ({blob.source.partition(chr(10))[0][:100]}): {note}")
    data = json.dumps(model.to_json(inventory), sort_keys=True).encode()
    write_file(_path(blob.digest), data)
    return inventory


def _is_far(blob: LockedBlob, sources: Sources) -> bool:
    if blob.source.startswith("registry:"):
        host, _, repository = blob.source.removeprefix("registry:").partition("/")
        return not is_loopback(sources.registry(host, repository))
    return blob.source.startswith(("http://", "https://")) and not is_loopback(
        sources.rewrite(blob.source)
    )


def _checked(blob: LockedBlob, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """An inventory is kept under the digest of the bytes that were looked at, and no other."""
    seen, count = hashlib.sha256(), 0
    for chunk in chunks:
        seen.update(chunk)
        count += len(chunk)
        yield chunk
    if seen.hexdigest() != blob.digest.hex or count != blob.size:
        raise ConfigurationError(
            f"{blob.source[:100]}: other bytes than {blob.digest}, which the lock names",
            hint="lock again; when it says so again, remove it from the cache",
        )


def _path(digest: Digest) -> Path:
    return cache.root() / f"sbom/{model.SCANNER}" / f"{digest.hex}.json"


def _kept(digest: Digest) -> Inventory | None:
    try:
        return model.from_json(json.loads(_path(digest).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.debug(f"{_path(digest)}: made again: {error}")
        return None
