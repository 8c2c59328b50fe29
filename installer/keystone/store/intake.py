"""Write members to disk. A member gets its final name after its digest check and its sync.

If members can be read in parallel (from a file), one thread reads, hashes and writes each complete
member. Members from a stream are read, hashed and written by the calling thread. In both cases
other threads wait for the syncs.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from keystone.bundle.formats.hashing import jobs
from keystone.bundle.read import stream
from keystone.errors import DamagedBundleError
from keystone.files import EARLY, reopened

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from keystone.bundle.format import Target

LANES = 4
"""Maximum members that are read in parallel."""
SYNCERS = 4
"""Threads that wait for syncs; the file system commits parallel syncs together."""
OPEN = 64
"""Maximum members that wait for a thread or for their sync."""


@dataclass(frozen=True)
class Arrival:
    """A member to write: its signed digest and size, and its temporary and final path.

    Both paths are on one file system. owner: the item that it belongs to, for messages. mode: of
    the final file.
    """

    name: str
    target: Target
    owner: str
    temporary: Path
    final: Path
    mode: int


class Intake:
    """Writes members: call `take` for each, `settle` after the last, and `close` in any case."""

    def __init__(self) -> None:
        lanes = min(LANES, jobs(len(os.sched_getaffinity(0))))
        self._lanes = ThreadPoolExecutor(lanes, "member")
        self._syncers = ThreadPoolExecutor(SYNCERS, "sync")
        self._slots = BoundedSemaphore(OPEN)
        self._failure: Exception | None = None

    def take(
        self, chunks: Iterable[bytes | memoryview], arrival: Arrival, *, parallel: bool = False
    ) -> None:
        """Hash, write and sync one member, and give it its final name.

        parallel: another thread may read `chunks` later. Raises the error of this member or of an
        earlier one: DamagedBundleError (KSB-08) for bytes other than the signed ones, OSError when
        the disk is full or cannot be written.
        """
        self._report()
        self._slots.acquire()
        if parallel:
            self._lanes.submit(self._guarded, chunks, arrival)
            return
        self._receive(chunks, arrival)

    def settle(self) -> None:
        """Wait until all members have their final names. Raises as `take` does."""
        self.close()
        self._report()

    def close(self) -> None:
        """Wait for the threads. No member can be taken afterwards."""
        for pool in (self._lanes, self._syncers):
            pool.shutdown()

    def _guarded(self, chunks: Iterable[bytes | memoryview], arrival: Arrival) -> None:
        """Keep an error for the caller's thread. After an error, no other member is started."""
        if self._failure is not None:
            self._slots.release()
            return
        try:
            self._receive(chunks, arrival)
        except (OSError, DamagedBundleError) as error:
            self._fail(error)

    def _receive(self, chunks: Iterable[bytes | memoryview], arrival: Arrival) -> None:
        """Write to the temporary path and check the digest; a sync thread does the rest."""
        handle = -1
        try:
            handle = os.open(arrival.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            digest = self._write(chunks, arrival.target.size, handle)
            stream.require_digest(digest, arrival.name, arrival.target, arrival.owner)
        except BaseException:
            if handle >= 0:
                os.close(handle)
            self._slots.release()
            raise
        self._syncers.submit(self._name, handle, arrival)

    def _write(self, chunks: Iterable[bytes | memoryview], size: int, handle: int) -> str:
        """Write the chunks. Returns their digest (hex); "" when their size is not `size`."""
        seen, left, early = hashlib.sha256(), size, 0
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break  # do not fill the disk with bytes that will be refused
            seen.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(handle, view) :]
            early += len(chunk)
            if early >= EARLY:
                early = 0
                self._syncers.submit(self._flush, reopened(handle))
        return "" if left else seen.hexdigest()

    def _flush(self, handle: int) -> None:
        """Start to write data to the disk early; the last sync reports write errors reliably."""
        try:
            os.fdatasync(handle)
        except OSError as error:
            self._fail(error)
        finally:
            os.close(handle)

    def _name(self, handle: int, arrival: Arrival) -> None:
        try:
            os.fchmod(handle, arrival.mode)
            os.fsync(handle)
            arrival.temporary.replace(arrival.final)
        except OSError as error:
            self._fail(error)
        finally:
            os.close(handle)
            self._slots.release()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error

    def _report(self) -> None:
        if self._failure is not None:
            raise self._failure
