"""SHA-256 of many pieces of one file, on all cores.

hashlib lets other threads run while it works (buffers beyond 2 KiB), and so does reading; each
thread has one buffer, so memory does not grow with the file.
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
    """How many things are done side by side: `usual`, or what the environment says.

    It never changes what comes out.
    """
    wanted = os.environ.get(JOBS, "")
    return int(wanted) if wanted.isdigit() and int(wanted) else usual


def digests(
    handle: int,
    pieces: Mapping[str, tuple[int, int]],
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, str]]:
    """Name and digest (hex) of each piece, as they are ready.

    pieces: name to offset and size in bytes. advance: told how many more bytes were hashed.
    Raises as `piece`.
    """
    threads = min(MAX_THREADS, jobs(len(os.sched_getaffinity(0))), max(len(pieces), 1))
    lock = Lock()

    def count(amount: int) -> None:
        with lock:
            advance(amount)

    # The largest first: a long one that starts last would leave the other cores without work.
    left = iter(sorted(pieces, key=lambda name: -pieces[name][1]))
    found: SimpleQueue[tuple[str, str] | Exception] = SimpleQueue()

    def work() -> None:
        """One thread takes name after name: a future for each of 20,000 would cost 30 MiB."""
        buffer = bytearray(CHUNK)
        try:
            for name in left:
                found.put((name, _digest(piece(handle, name, *pieces[name], buffer), count)))
        except Exception as error:  # noqa: BLE001 raised again by who asked
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
                pass  # nobody begins another one


def _digest(chunks: Iterable[memoryview], count: Callable[[int], None]) -> str:
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        count(len(chunk))
    return seen.hexdigest()


def piece(
    handle: int, name: str, offset: int, size: int, buffer: bytearray | None = None
) -> Iterator[memoryview]:
    """A piece of an open file, wherever others read it; each view is valid until the next one.

    Memory is taken when the first view is asked for, not before. Raises DamagedBundleError
    (KSB-09, KSB-30) when the file ends early or cannot be read.
    """
    view, done = memoryview(buffer or bytearray(min(size, CHUNK))), 0
    while done < size:
        try:
            got = os.preadv(handle, [view[: min(len(view), size - done)]], offset + done)
        except OSError as error:
            raise DamagedBundleError(
                f"{name}: cannot be read at byte {offset + done}: {error.strerror}",
                hint="look at the medium and its cable, or copy the bundle to another one",
                code="KSB-30",
            ) from error
        if not got:
            raise DamagedBundleError(
                f"{name}: the bundle ends inside", hint="copy it again", code="KSB-09"
            )
        yield view[:got]
        done += got
