"""Taking members in: a member gets its final name after its hash was compared and its bytes synced.

Where members can be read side by side (a file), each is read, hashed and written by a thread of
its own from end to end: nothing is handed from thread to thread but whole members. What comes in
one stream is read, hashed and written where it is read. Either way the syncs wait elsewhere.
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
"""Members that are read side by side at most."""
SYNCERS = 4
"""Threads that wait for the disk; the file system commits what they ask for together."""
OPEN = 64
"""Members that wait for a lane or for their sync at most."""


@dataclass(frozen=True)
class Arrival:
    """A member that comes: what it must be, where it is written, and its name when it is whole.

    temporary and final are on one file system. owner: what it belongs to, for messages.
    """

    name: str
    target: Target
    owner: str
    temporary: Path
    final: Path
    mode: int


class Intake:
    """`take` members, `settle` when all came, `close` in any case."""

    def __init__(self) -> None:
        lanes = min(LANES, jobs(len(os.sched_getaffinity(0))))
        self._lanes = ThreadPoolExecutor(lanes, "member")
        self._syncers = ThreadPoolExecutor(SYNCERS, "sync")
        self._slots = BoundedSemaphore(OPEN)
        self._failure: Exception | None = None

    def take(
        self, chunks: Iterable[bytes | memoryview], arrival: Arrival, *, apart: bool = False
    ) -> None:
        """Have one member hashed, written, synced and named.

        apart: `chunks` may be read by another thread, later. Raises what went wrong with this
        member or an earlier one: DamagedBundleError (KSB-08) for bytes that were not signed,
        OSError when the disk does not take them.
        """
        self._report()
        self._slots.acquire()
        if apart:
            self._lanes.submit(self._guarded, chunks, arrival)
            return
        self._receive(chunks, arrival)

    def settle(self) -> None:
        """Wait until everything that was taken is in its place. Raises as `take`."""
        self.close()
        self._report()

    def close(self) -> None:
        """Wait for the threads; nothing more can be taken."""
        for pool in (self._lanes, self._syncers):
            pool.shutdown()

    def _guarded(self, chunks: Iterable[bytes | memoryview], arrival: Arrival) -> None:
        """What fails in a thread is raised in the caller's. After it nothing more is begun."""
        if self._failure is not None:
            self._slots.release()
            return
        try:
            self._receive(chunks, arrival)
        except (OSError, DamagedBundleError) as error:
            self._fail(error)

    def _receive(self, chunks: Iterable[bytes | memoryview], arrival: Arrival) -> None:
        """Write to the temporary name; a syncer does the rest when the bytes are the signed."""
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
        """The digest (hex) of what was written; "" when it is not of that size."""
        seen, left, early = hashlib.sha256(), size, 0
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break  # nobody may fill the disk with what will be refused
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
        """Set the disk to work; whether it took the bytes is seen at their last sync."""
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
