"""The bytes of what a lock names, checked, in the lock's order, while later ones are on their way.

What is far away goes through the cache on disk, several at a time: a slow line is kept busy, a run
that was cut finds whole blobs again, and the next bundle finds what did not change. What is near
(loopback, files here) is read ahead in memory, a few blobs with a few chunks each. Either way the
reader hashes nothing: threads here did, and raise where the bytes are not the lock's.
"""

from __future__ import annotations

import hashlib
import queue
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from keystone.bundle import media
from keystone.bundle.formats.hashing import jobs
from keystone.errors import ConfigurationError, InterruptedRunError
from keystone.packager.installer import SOURCE, executable
from keystone.packager.sources import cache, oci
from keystone.packager.sources.addresses import is_loopback
from keystone.packager.sources.local_images import Archives
from keystone.packager.sources.upstream import local_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from keystone.bundle.model import Digest
    from keystone.packager.lock import LockedBlob
    from keystone.packager.sources.upstream import Sources

CHUNK = 1 << 19
"""Bytes; each costs a turn of Python's lock, for which the readers here wait for each other."""
FAR = 6
"""Downloads at a time."""
NEAR = 2
"""Blobs read ahead in memory: a core hashes faster than most disks write."""
DEPTH = 2
"""Chunks of each that may wait: NEAR * DEPTH * CHUNK bytes in all."""
BEGUN = 256
"""Blobs that are begun and not opened yet: what waits costs memory for each."""
LOOK = 0.2
"""Seconds after which a thread that waits for room looks whether anybody still reads."""


@dataclass
class _Ahead:
    """One near blob: chunks, then None; or what went wrong."""

    chunks: queue.Queue[bytes | BaseException | None] = field(
        default_factory=lambda: queue.Queue(DEPTH)
    )


class Supply:
    """Where the blobs of a lock come from. folder: of the lock file, for local sources."""

    def __init__(self, folder: Path, sources: Sources) -> None:
        self._folder = folder
        self._sources = sources
        self._archives = Archives()
        self._far: dict[Digest, Future[Path]] = {}
        self._near: dict[Digest, _Ahead] = {}
        self._begin: Callable[[], None] = lambda: None
        self._stop = Event()

    def open(self, blob: LockedBlob) -> Iterator[bytes]:
        """The bytes. Raises WrongContentError, ConfigurationError when they are not the lock's."""
        future, ahead = self._far.pop(blob.digest, None), self._near.pop(blob.digest, None)
        self._begin()
        if future:
            future.result()
            return self._checked(blob, _file(cache.path(blob.digest)))
        if ahead:
            return _drained(ahead)
        return self._direct(blob)

    @contextmanager
    def ahead(self, blobs: Iterable[LockedBlob]) -> Iterator[None]:
        """While the block runs, fetch these ahead; each is to be opened once, in this order."""
        far, near = ThreadPoolExecutor(jobs(FAR)), ThreadPoolExecutor(min(jobs(NEAR), NEAR))
        waiting = iter(blobs)

        def begin() -> None:
            for blob in islice(waiting, BEGUN - len(self._far) - len(self._near)):
                if self._is_far(blob):
                    self._far[blob.digest] = far.submit(self._download, blob)
                else:
                    self._near[blob.digest] = ahead = _Ahead()
                    near.submit(self._read, blob, ahead)

        self._stop.clear()
        self._begin = begin
        try:
            begin()
            yield
        finally:
            self._begin = lambda: None
            self._stop.set()
            for pool in (far, near):
                pool.shutdown(cancel_futures=True)
            self._far.clear()
            self._near.clear()

    def _is_far(self, blob: LockedBlob) -> bool:
        if not blob.source.startswith(("http://", "https://", "registry:")):
            return False
        return not is_loopback(self._address(blob)) and not cache.has(blob.digest, blob.size)

    def _download(self, blob: LockedBlob) -> Path:
        return cache.keep(blob.digest, self._stoppable(self._fetched(blob)))

    def _read(self, blob: LockedBlob, ahead: _Ahead) -> None:
        end: BaseException | None = None
        try:
            for chunk in self._stoppable(self._direct(blob)):
                self._put(ahead, chunk)
        except BaseException as error:  # noqa: BLE001 raised again where the blob is read
            end = error
        self._put(ahead, end)

    def _put(self, ahead: _Ahead, value: bytes | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                ahead.chunks.put(value, timeout=LOOK)
            except queue.Full:
                continue
            return

    def _stoppable(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise InterruptedRunError("nobody waits for this any more")
            yield chunk

    def _direct(self, blob: LockedBlob) -> Iterator[bytes]:
        """From where the lock says, or from the cache, without anything ahead."""
        here = self._here(blob)
        return self._fetched(blob) if here is None else self._checked(blob, here)

    def _here(self, blob: LockedBlob) -> Iterator[bytes] | None:
        """The bytes that this machine has, unchecked; None when they are to be fetched."""
        kind, _, rest = blob.source.partition(":")
        local = local_file(blob.source, self._folder)
        found: Iterator[bytes] | None = None
        if kind == "inline":
            found = iter([rest.encode()])
        elif kind == "base64":
            found = iter([b64decode(rest)])
        elif local is not None:
            found = _file(local)
        elif kind == "file":
            found = _file(Path(unquote(urlsplit(blob.source).path)))
        elif kind == "archive":
            found = self._archives.read(self._folder, rest)
        elif cache.has(blob.digest, blob.size):
            found = _file(cache.path(blob.digest))
        elif blob.source.startswith(SOURCE):
            found = _file(executable(blob.source))
        elif kind == "built":
            raise ConfigurationError(
                f"{rest} was built when the lock was made and is no longer in {cache.root()}",
                hint="lock again: it is built again",
            )
        return found

    def _fetched(self, blob: LockedBlob) -> Iterator[bytes]:
        headers = {"Accept": blob.media_type} if blob.media_type in media.ACCEPTED else {}
        return self._sources.fetch(self._address(blob), blob.digest, blob.size, headers)

    def _address(self, blob: LockedBlob) -> str:
        if blob.source.startswith("registry:"):
            name = blob.source.removeprefix("registry:")
            return oci.address(self._sources, name, blob.digest, blob.media_type)
        return self._sources.rewrite(blob.source)

    def _checked(self, blob: LockedBlob, chunks: Iterator[bytes]) -> Iterator[bytes]:
        seen, count = hashlib.sha256(), 0
        for chunk in chunks:
            seen.update(chunk)
            count += len(chunk)
            if count > blob.size:
                break
            yield chunk
        if count != blob.size or seen.hexdigest() != blob.digest.hex:
            where = blob.source.partition("\n")[0][:200]
            raise ConfigurationError(
                f"{where}: has other bytes than {blob.digest}, {blob.size} bytes, that the lock "
                f"names (sha256:{seen.hexdigest()}, {count} bytes)",
                hint="lock again",
            )


def _drained(ahead: _Ahead) -> Iterator[bytes]:
    while (value := ahead.chunks.get()) is not None:
        if isinstance(value, BaseException):
            raise value
        yield value


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk
