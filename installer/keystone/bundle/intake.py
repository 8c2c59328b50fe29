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
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from keystone.bundle.reader import Content, Owner

T = TypeVar("T")

BUFFERS = 12
SYNCERS = 4
"""Threads that wait for the disk; the file system commits what they ask for together."""
OPEN = 64
"""Files that wait for their sync at most."""
EARLY = 64 << 20
"""Bytes of one file after which the disk is set to work, instead of at the file's end."""


@dataclass(frozen=True)
class Places:
    """Where a member is written (on the same file system), and what it is called when whole."""

    temporary: Path
    final: Path
    mode: int


@dataclass
class _Buffer:
    """Memory that two threads read: it is free again when both have let go."""

    data: memoryview = field(default_factory=lambda: memoryview(bytearray(reader.CHUNK)))
    users: int = 0


@dataclass
class _Arriving:
    """A member on its way."""

    content: Content
    places: Places
    owner: Owner
    handle: int
    seen: hashlib._Hash = field(default_factory=hashlib.sha256)
    whole: bool = False

    def write(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self.handle, view) :]

    def settle(self) -> None:
        """All bytes are written: compare, sync, rename."""
        name, target = self.content.name, self.content.target
        reader.require_digest(self.seen.hexdigest(), name, target, self.owner)
        os.fchmod(self.handle, self.places.mode)
        os.fsync(self.handle)
        self.places.temporary.replace(self.places.final)


class Intake:
    """Use as a context: leaving it waits until everything that was taken is in its place.

    Raises DamagedBundleError (KSB-08) for bytes that were not signed and OSError when the disk
    does not take them, at the next `take` or when the context is left.
    """

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        for pool in (self._hasher, self._writer, self._syncers):
            pool.shutdown()
        if error is None:
            self._report()

    def take(self, content: Content, places: Places, owner: Owner) -> None:
        """Read one member to its end, and have it hashed, written, synced and named."""
        self._slots.acquire()
        handle = os.open(places.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        member = _Arriving(content, places, owner, handle)
        current = _Buffer()
        early = 0

        def buffer() -> memoryview:
            nonlocal current
            self._report()
            current = self._free.get()
            return current.data

        try:
            for view in content.raw(buffer):
                current.users = 2
                self._hasher.submit(self._use, current, member.seen.update, view)
                self._writer.submit(self._use, current, member.write, view)
                early += len(view)
                if early >= EARLY:
                    early = 0
                    self._syncers.submit(self._attempt, os.fdatasync, handle)
            member.whole = True
        finally:
            # One thread each: when these are done, so is all that was asked before.
            before = (self._hasher.submit(bool), self._writer.submit(bool))
            self._syncers.submit(self._finish, member, before)

    def _use(self, buffer: _Buffer, work: Callable[[memoryview], None], view: memoryview) -> None:
        self._attempt(work, view)
        with self._lock:
            buffer.users -= 1
            free = not buffer.users
        if free:
            self._free.put(buffer)

    def _finish(self, member: _Arriving, before: tuple[Future[bool], ...]) -> None:
        for work in before:
            work.result()
        if member.whole and self._failure is None:
            self._attempt(_Arriving.settle, member)
        os.close(member.handle)
        self._slots.release()

    def _attempt(self, work: Callable[[T], object], of: T) -> None:
        """What fails in a thread is raised in the caller's, once."""
        try:
            work(of)
        except (OSError, DamagedBundleError) as error:
            self._failure = self._failure or error

    def _report(self) -> None:
        if self._failure is not None:
            raise self._failure
