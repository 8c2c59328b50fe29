"""Taking members in: reading, hashing, writing and syncing at the same time.

The caller's thread reads, one thread hashes, one writes, a few sync and rename. A member gets its
final name after its hash was compared and its bytes are on the disk, in whatever order that
happens; a file is never known by its name before. Memory is a fixed number of buffers.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, TypeVar

from keystone.bundle import reader
from keystone.bundle.disk import EARLY
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

    from keystone.bundle.reader import Target

T = TypeVar("T")

BUFFERS = 12
SYNCERS = 4
"""Threads that wait for the disk; the file system commits what they ask for together."""
OPEN = 64
"""Files that wait for their sync at most."""


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


@dataclass
class _Buffer:
    """Memory that two threads read: it is free again when both have let go."""

    data: memoryview = field(default_factory=lambda: memoryview(bytearray(reader.CHUNK)))
    users: int = 0


@dataclass
class _Open:
    """A member on its way."""

    arrival: Arrival
    handle: int
    seen: hashlib._Hash = field(default_factory=hashlib.sha256)
    size: int = 0
    came: bool = False
    broken: bool = False

    def write(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self.handle, view) :]

    def settle(self) -> None:
        """All bytes are written: compare, sync, rename."""
        to = self.arrival
        found = self.seen.hexdigest() if self.size == to.target.size else ""
        reader.require_digest(found, to.name, to.target, to.owner)
        os.fchmod(self.handle, to.mode)
        os.fsync(self.handle)
        to.temporary.replace(to.final)


class Intake:
    """`take` members, `settle` when all came, `close` in any case."""

    def __init__(self) -> None:
        self._hasher = ThreadPoolExecutor(1, "hash")
        self._writer = ThreadPoolExecutor(1, "write")
        self._syncers = ThreadPoolExecutor(SYNCERS, "sync")
        self._free: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(_Buffer())
        self._lock = Lock()
        self._slots = BoundedSemaphore(OPEN)
        self._failure: Exception | None = None

    def take(self, chunks: Iterable[bytes | memoryview], arrival: Arrival) -> None:
        """Read one member to its end, and have it hashed, written, synced and named.

        Raises what went wrong with this one or an earlier one: DamagedBundleError (KSB-08) for
        bytes that were not signed, OSError when the disk does not take them.
        """
        self._slots.acquire()
        try:
            handle = os.open(arrival.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            self._slots.release()
            raise
        member = _Open(arrival, handle)
        early = 0
        try:
            for chunk in chunks:
                self._pass_on(member, memoryview(chunk))
                early += len(chunk)
                if early >= EARLY:
                    early = 0
                    self._syncers.submit(self._attempt, member, os.fdatasync, handle)
                self._report()
                if member.size > arrival.target.size:
                    break  # `settle` refuses it; nobody may fill the disk with it before that
            member.came = True
        finally:
            # One thread each: when these are done, so is all that was asked of it before.
            before = (self._hasher.submit(bool), self._writer.submit(bool))
            self._syncers.submit(self._finish, member, before)

    def settle(self) -> None:
        """Wait until everything that was taken is in its place. Raises as `take`."""
        self.close()
        self._report()

    def close(self) -> None:
        """Wait for the threads; nothing more can be taken."""
        for pool in (self._hasher, self._writer, self._syncers):
            pool.shutdown()

    def _pass_on(self, member: _Open, chunk: memoryview) -> None:
        """Copy, as the caller will use its memory again, and let two threads have it."""
        for start in range(0, len(chunk), reader.CHUNK):
            piece = chunk[start : start + reader.CHUNK]
            buffer = self._free.get()
            view = buffer.data[: len(piece)]
            view[:] = piece
            buffer.users = 2
            member.size += len(piece)
            self._hasher.submit(self._use, member, buffer, member.seen.update, view)
            self._writer.submit(self._use, member, buffer, member.write, view)

    def _use(
        self, member: _Open, buffer: _Buffer, work: Callable[[memoryview], None], view: memoryview
    ) -> None:
        self._attempt(member, work, view)
        with self._lock:
            buffer.users -= 1
            free = not buffer.users
        if free:
            self._free.put(buffer)

    def _finish(self, member: _Open, before: tuple[Future[bool], ...]) -> None:
        for work in before:
            work.result()
        if member.came and not member.broken:
            self._attempt(member, _Open.settle, member)
        os.close(member.handle)
        self._slots.release()

    def _attempt(self, member: _Open, work: Callable[[T], object], of: T) -> None:
        """What fails in a thread is raised in the caller's; the member gets no name then."""
        try:
            work(of)
        except (OSError, DamagedBundleError) as error:
            member.broken = True
            self._failure = self._failure or error

    def _report(self) -> None:
        if self._failure is not None:
            raise self._failure
