"""Compute the SHA-256 of many pieces of one file, on all cores.

hashlib (for buffers above 2 KiB) and file reads release the GIL. Each thread has one buffer, so
memory use does not grow with the file.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

CHUNK = 1 << 20
MAX_THREADS = 16
JOBS = "KEYSTONE_JOBS"


def jobs(usual: int) -> int:
    """The number of parallel jobs: KEYSTONE_JOBS from the environment, or else `usual`.

    The number never changes any result.
    """
    wanted = os.environ.get(JOBS, "")
    return int(wanted) if wanted.isdigit() and int(wanted) else usual


def digests(
    handle: int,
    pieces: Mapping[str, tuple[int, int]],
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, str]]:
    """Yield name and digest (hex) of each piece, in the order in which they are finished.

    pieces: name to offset and size in bytes. advance: called with the number of bytes hashed.
    Raises DamagedBundleError as `piece` does.
    """
    threads = min(MAX_THREADS, jobs(len(os.sched_getaffinity(0))), max(len(pieces), 1))
    lock = Lock()

    def count(amount: int) -> None:
        with lock:
            advance(amount)

    # The largest piece first: if it started last, the other cores would be idle meanwhile.
    left = iter(sorted(pieces, key=lambda name: -pieces[name][1]))
    found: SimpleQueue[tuple[str, str] | Exception] = SimpleQueue()

    def work() -> None:
        """Each thread takes the next name: a future for each of 20,000 would take 30 MiB."""
        buffer = bytearray(CHUNK)
        try:
            for name in left:
                found.put((name, _digest(piece(handle, name, *pieces[name], buffer), count)))
        except Exception as error:  # noqa: BLE001 raised again in the caller's thread
            found.put(error)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(work)
        try:
            for _ in pieces:
                value = found.get()
                if isinstance(value, Exception):
                    raise value
                yield value
        finally:
            for _ in left:
                pass  # empty the iterator, so no thread starts another piece


def _digest(chunks: Iterable[memoryview], count: Callable[[int], None]) -> str:
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        count(len(chunk))
    return seen.hexdigest()


def piece(
    handle: int, name: str, offset: int, size: int, buffer: bytearray | None = None
) -> Iterator[memoryview]:
    """Read a piece of an open file, independent of the file position.

    offset, size: in bytes. Each view is valid until the next one is requested. The buffer is
    allocated with the first view. Raises DamagedBundleError (KSB-09, KSB-30) when the file ends
    early or cannot be read.
    """
    view, done = memoryview(buffer or bytearray(min(size, CHUNK))), 0
    while done < size:
        try:
            got = os.preadv(handle, [view[: min(len(view), size - done)]], offset + done)
        except OSError as error:
            raise DamagedBundleError(
                f"{name}: cannot read at byte {offset + done}: {error.strerror}",
                hint="check the medium and its cable, or copy the bundle to another medium",
                code="KSB-30",
            ) from error
        if not got:
            raise DamagedBundleError(
                f"{name}: the bundle ends inside this member: it is truncated",
                hint="copy the bundle again",
                code="KSB-09",
            )
        yield view[:got]
        done += got
