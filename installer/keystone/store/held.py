"""Open a bundle whose blobs are already in this host's store: only its signed head is read.

So a second run of the installer does not read gigabytes to find that nothing changed. ADR 0061
describes the reasons, and the changes that this does not detect. A Primer needs no medium at all
to run the installer with the bundle that its store has, also for a new machine: the store has
every byte of it.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from keystone.bundle.delta.over_store import over_store
from keystone.bundle.format import (
    CHUNK,
    INSTALLER,
    INSTALLER_MODE,
    MANIFEST,
    METADATA,
    member_name,
)
from keystone.bundle.formats import tar
from keystone.bundle.read.blobs import blob_path
from keystone.bundle.read.bundle import Bundle, contents, open_metadata, verify_files
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError, UsageError
from keystone.store import store as stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystone.bundle.model import Digest


@dataclass(frozen=True)
class Held(Bundle):
    """A bundle whose blobs are read from `store`, not from `path`; so `offsets` is empty."""

    store: Path

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        """Copy a blob from the store and hash it again, because disks fail.

        Raises DamagedBundleError: KSB-19 for a blob that is not in the bundle, KSB-08 for a damaged
        one.
        """
        name = member_name(digest, self.manifest)
        if name not in self.verified.targets:
            raise DamagedBundleError(f"{digest}: not in the signed list", code="KSB-19")
        self._copy_file(digest, blob_path(self.store, digest), sink)

    def _copy_file(self, digest: Digest, here: Path, sink: IO[bytes]) -> None:
        seen = hashlib.sha256()
        try:
            file = here.open("rb")
        except OSError as error:
            raise self._damaged(digest, here, str(error.strerror)) from error
        with file:
            for chunk in self._chunks(digest, here, file):
                seen.update(chunk)
                sink.write(chunk)
        if seen.hexdigest() != digest.hex:
            raise self._damaged(digest, here, "its bytes differ from the signed ones")

    def _chunks(self, digest: Digest, here: Path, file: IO[bytes]) -> Iterator[bytes]:
        try:
            yield from iter(lambda: file.read(CHUNK), b"")
        except OSError as error:
            raise self._damaged(digest, here, str(error.strerror)) from error

    def _damaged(self, digest: Digest, here: Path, why: str) -> DamagedBundleError:
        return DamagedBundleError(
            f"{here} ({self.manifest.owner(digest)}): {why}",
            hint="check the pool's disks; then remove this file and bring the bundle in again: "
            f"keystone-install store ingest {self._source()}",
            code="KSB-08",
        )

    def _source(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Stored(Held):
    """The bundle in a store, without any medium; `path` is the store."""

    @contextmanager
    def archive(self) -> Iterator[IO[bytes]]:
        """Open the bundle as a tar made from the store, with the bytes of its medium's members.

        Each blob is hashed while it is sent. Raises DamagedBundleError (KSB-08) at the end of the
        block, in place of what an incomplete archive caused in it.
        """
        source, sink = os.pipe()
        with ThreadPoolExecutor(1, "archive") as pool, open(source, "rb") as file:  # noqa: PTH123 a handle has no path
            sent = pool.submit(self._send, sink)
            try:
                yield file
            finally:
                file.close()
                if (error := sent.exception()) and not isinstance(error, BrokenPipeError):
                    raise error

    def _send(self, handle: int) -> None:
        targets, mtime = self.verified.targets, int(self.verified.created.timestamp())
        head = {METADATA + name: data for name, data in self.verified.files.items()}
        first = [name for name in (MANIFEST, INSTALLER) if name in targets]
        names = [*first, *(name for name in targets if name not in first)]
        sizes = {name: len(data) for name, data in head.items()}
        sizes |= {name: targets[name].size for name in names}
        members = (
            tar.Member(name, size, INSTALLER_MODE if name == INSTALLER else 0o644, mtime)
            for name, size in sizes.items()
        )
        position = 0
        with open(handle, "wb") as sink:
            for place in tar.place(members):
                name, position = place.member.name, place.end
                sink.write(place.prefix)
                if name in head:
                    sink.write(head[name])
                else:
                    here = stores.place(self.store, name, targets[name])
                    self._copy_file(targets[name].digest, here, sink)
                sink.write(bytes(place.end - place.offset - place.member.size))
            sink.write(bytes(tar.end_bytes(position)))

    def _source(self) -> str:
        return "FILE"


def open_stored(store: Path, *, directory: Path = verify.TRUST) -> Stored:
    """Open the bundle that this host's store has, with the root that this host pinned.

    Raises UsageError when there is none, UntrustedBundleError and DamagedBundleError as
    `open_metadata` does.
    """
    pin = verify.host_pin(directory)
    if not stores.marked(store) or pin.root is None:
        raise UsageError(
            f"{store}: has no complete bundle", hint="name the bundle's file: --bundle FILE"
        )
    files = {path.name: path.read_bytes() for path in (store / "metadata").iterdir()}
    table = files.pop(MANIFEST, b"")
    verified = verify_files(dict(sorted(files.items(), key=_in_order)), pin)
    found = Stored(store, contents(table, verified), verified, {}, store)
    if not stores.holds(store, verified):
        raise DamagedBundleError(
            f"{store}: a part of its bundle is missing",
            hint="bring the bundle in again: keystone-install store ingest FILE",
            code="KSB-08",
        )
    return found


def _in_order(file: tuple[str, bytes]) -> tuple[int, int]:
    """Return the place of a metadata file: roots by number, then the others as read."""
    number, _, rest = file[0].partition(".")
    if rest == "root.json" and number.isdecimal():
        return 0, int(number)
    order = ("timestamp.json", "snapshot.json", "targets.json")
    return 1, order.index(file[0]) if file[0] in order else len(order)


def open_held(
    path: Path,
    store: Path,
    *,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = verify.TRUST,
) -> Bundle | None:
    """Open the bundle at `path`, or the full bundle that a delta makes, with blobs from `store`.

    Returns None when the store lacks the bundle, or when the host has pinned no root and so cannot
    trust its store: the caller must then read the complete file. The metadata and the table of
    contents at `path` are always verified. Raises as `open_metadata` and, for a delta, `fill` do.
    """
    if not stores.marked(store) or verify.host_pin(directory).root is None:
        return None
    found = open_metadata(path, fingerprint=fingerprint, confirm=confirm, directory=directory)
    full = over_store(found, store, directory)
    if not stores.holds(store, full.verified):
        return None
    if found.is_delta:
        return full
    return Held(path, found.manifest, found.verified, {}, store)
