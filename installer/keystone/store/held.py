"""A bundle whose content this host's store already holds: its signed head is read, nothing else.

A second run of the installer must not read gigabytes again to learn that nothing changed. What
that rests on, and what it does not find, is in ADR 0061.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from keystone.bundle.delta.over_store import over_store
from keystone.bundle.format import CHUNK, member_name
from keystone.bundle.read.blobs import blob_path
from keystone.bundle.read.bundle import Bundle, open_metadata
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError
from keystone.store import store as stores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystone.bundle.model import Digest


@dataclass(frozen=True)
class Held(Bundle):
    """A bundle whose blobs come out of `store`. offsets is empty: nothing is read from `path`."""

    store: Path

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        """A blob from the store, hashed again: disks rot, and only the bundle's own are given."""
        name = member_name(digest, self.manifest)
        if name not in self.verified.targets:
            raise DamagedBundleError(f"{digest}: nobody signed it", code="KSB-19")
        here, seen = blob_path(self.store, digest), hashlib.sha256()
        try:
            with here.open("rb") as file:
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    seen.update(chunk)
                    sink.write(chunk)
        except OSError as error:
            raise self._damaged(digest, here, str(error.strerror)) from error
        if seen.hexdigest() != digest.hex:
            raise self._damaged(digest, here, "its bytes are not the ones that were signed")

    def _damaged(self, digest: Digest, here: Path, why: str) -> DamagedBundleError:
        return DamagedBundleError(
            f"{here} ({self.manifest.owner(digest)}): {why}",
            hint=f"look at the pool's disks; then remove that file and bring it in again: "
            f"keystone-install store ingest {self.path}",
            code="KSB-08",
        )


def open_held(
    path: Path,
    store: Path,
    *,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = verify.TRUST,
) -> Bundle | None:
    """The bundle, or the one that a delta makes, out of `store`; None when it must be read whole.

    The metadata of `path` are verified as always, and so is its table of contents. A host that
    pinned no root has no store to believe. Raises as `open_metadata` and, for a delta, `fill` do.
    """
    if not stores.marked(store) or verify.host_pin(directory).root is None:
        return None
    found = open_metadata(path, fingerprint=fingerprint, confirm=confirm, directory=directory)
    whole = over_store(found, store, directory)
    if not stores.holds(store, whole.verified):
        return None
    if found.is_delta:
        return whole
    return Held(path, found.manifest, found.verified, {}, store)
