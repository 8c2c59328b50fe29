"""Deliver the blobs of a lock, verified and in the lock's order, while fetching later ones ahead.

Remote blobs are downloaded into the cache on disk, several at a time: this uses a slow link fully,
an interrupted run finds complete blobs again, and the next bundle finds unchanged ones. Near blobs
(loopback, local files) are read ahead into memory, a few blobs with a few chunks each. In both
cases the threads in this module hash the bytes, and raise when they are not the lock's; the reader
need not hash them again.
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
"""Bytes. Each chunk acquires Python's interpreter lock, so small chunks make readers contend."""
FAR = 6
"""Parallel downloads."""
NEAR = 2
"""Blobs read ahead into memory: one core hashes faster than most disks write."""
DEPTH = 2
"""Chunks that may wait per blob: NEAR * DEPTH * CHUNK bytes in all."""
SUBMITTED = 256
"""Blobs submitted to the threads and not opened yet: each of them costs memory."""
POLL = 0.2
"""Seconds after which a thread that waits for room in a queue checks whether to stop."""


@dataclass
class _Ahead:
    """One near blob: a queue of its chunks, ended by None or by the error that occurred."""

    chunks: queue.Queue[bytes | BaseException | None] = field(
        default_factory=lambda: queue.Queue(DEPTH)
    )


class Supply:
    """Reads the blobs of a lock from their sources. folder: of the lock, for local sources."""

    def __init__(self, folder: Path, sources: Sources) -> None:
        self._folder = folder
        self._sources = sources
        self._archives = Archives()
        self._far: dict[Digest, Future[Path]] = {}
        self._near: dict[Digest, _Ahead] = {}
        self._begin: Callable[[], None] = lambda: None
        self._stop = Event()

    def open(self, blob: LockedBlob) -> Iterator[bytes]:
        """Return the bytes of a blob, verified while they are read.

        Raises WrongContentError, ConfigurationError when they are not what the lock names.
        """
        future, ahead = self._far.pop(blob.digest, None), self._near.pop(blob.digest, None)
        self._begin()
        if future:
            future.result()
            return self._checked(blob, _file(cache.path(blob.digest)))
        if ahead:
            return _queued_chunks(ahead)
        return self._direct(blob)

    @contextmanager
    def ahead(self, blobs: Iterable[LockedBlob]) -> Iterator[None]:
        """Fetch these ahead while the block runs. Open each of them once, in this order."""
        far, near = ThreadPoolExecutor(jobs(FAR)), ThreadPoolExecutor(min(jobs(NEAR), NEAR))
        waiting = iter(blobs)

        def begin() -> None:
            for blob in islice(waiting, SUBMITTED - len(self._far) - len(self._near)):
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
                ahead.chunks.put(value, timeout=POLL)
            except queue.Full:
                continue
            return

    def _stoppable(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise InterruptedRunError("download stopped: its result is no longer needed")
            yield chunk

    def _direct(self, blob: LockedBlob) -> Iterator[bytes]:
        """Read a blob from its source or from the cache, without fetching ahead."""
        here = self._here(blob)
        return self._fetched(blob) if here is None else self._checked(blob, here)

    def _here(self, blob: LockedBlob) -> Iterator[bytes] | None:
        """Return the blob's bytes from this machine, unverified; None when they must be fetched."""
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
                f"{rest} was built when the lock was made, but is no longer in {cache.root()}",
                hint="lock again, which builds it again: keystone-install bundle lock",
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
                f"{where}: the lock names {blob.digest}, {blob.size} bytes, but the source has "
                f"sha256:{seen.hexdigest()}, {count} bytes",
                hint="lock again: keystone-install bundle lock",
            )


def _queued_chunks(ahead: _Ahead) -> Iterator[bytes]:
    while (value := ahead.chunks.get()) is not None:
        if isinstance(value, BaseException):
            raise value
        yield value


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk
