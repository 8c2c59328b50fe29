"""Write the bundle of a lock: deterministic bytes, resumable after an interruption.

The lock contains all digests and sizes, so the signed head is known before the first blob is
fetched, and blobs go from their source into the archive in one pass. The file is named
`<name>.part` until it is complete. A run that finds the part file of an interrupted one re-hashes
it and continues after the last complete member.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import CHUNK, INSTALLER, METADATA
from keystone.bundle.formats import tar
from keystone.files import (
    EARLY,
    half_made,
    open_own,
    reopened,
    require_room,
    settle,
    write_all,
    writing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from pathlib import Path
    from typing import Self

    from keystone.packager.lock import Lock
    from keystone.packager.members import Part
    from keystone.packager.supply import Supply


class Flusher:
    """Sync a large file in the background while it is written, not only at its end.

    Use it as a context manager and call `wrote` after each write. It does not replace the last
    fsync, which also reports errors of the disk.
    """

    def __init__(self, handle: int) -> None:
        self._handle, self._count = reopened(handle), 0
        self._pool = ThreadPoolExecutor(1, "flush")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        os.close(self._handle)

    def wrote(self, count: int) -> None:
        """Count bytes that were written; every `EARLY` bytes, start a sync."""
        self._count += count
        if self._count >= EARLY:
            self._count = 0
            self._pool.submit(os.fdatasync, self._handle)


@dataclass(frozen=True)
class Created:
    """The result of `create`.

    changed: False when the file was there already. digest: of targets.json; it identifies the
    bundle. size: of the bundle in bytes. fingerprint: of its root. installer: SHA-256 of its
    keystone-install, "" when it has none. fingerprint and installer are in hexadecimal, for
    operators to compare with those they received out of band.
    """

    changed: bool
    digest: str
    size: int
    fingerprint: str = ""
    installer: str = ""


def write(parts: list[Part], lock: Lock, output: Path, supply: Supply) -> Created:
    """Write these members in their order, with the lock's time as mtime.

    parts: the signed head first. supply: fetches the blobs of members ahead.
    """
    digests = {part.name: part.target.digest for part in parts}
    installer = digests.get(INSTALLER)
    done = Created(
        changed=True,
        digest=str(digests[f"{METADATA}targets.json"]),
        size=_size(parts, lock),
        fingerprint=digests[f"{METADATA}1.root.json"].hex,
        installer=installer.hex if installer else "",
    )
    if _is_there(output, parts, done.size, lock):
        return replace(done, changed=False)
    with writing(output, done.size):
        _write(parts, lock, output, done.size, supply)
    return done


def _placed(parts: Iterable[Part], lock: Lock) -> Iterator[tar.Placed]:
    mtime = int(lock.created.timestamp())
    return tar.place(tar.Member(p.name, p.target.size, p.mode, mtime) for p in parts)


def _size(parts: list[Part], lock: Lock) -> int:
    (last,) = deque(_placed(parts, lock), maxlen=1)
    return last.end + tar.end_bytes(last.end)


def _is_there(output: Path, parts: list[Part], size: int, lock: Lock) -> bool:
    """Whether the output is this bundle: same signed head. Its final name means it is complete."""
    if not output.is_file() or output.stat().st_size != size:
        return False
    head = [part for part in parts if part.name.startswith(METADATA)]
    with output.open("rb") as file:
        for part, place in zip(head, _placed(head, lock), strict=True):
            file.seek(place.offset)
            if file.read(part.target.size) != b"".join(part.read()):
                return False
    return True


def _write(parts: list[Part], lock: Lock, output: Path, size: int, supply: Supply) -> None:
    part_file = output.with_name(f"{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    require_room(output, size, part_file.stat().st_size if part_file.exists() else 0)
    handle = open_own(part_file, os.O_RDWR | os.O_CREAT, 0o644)
    # Unbuffered: written bytes survive a kill, so no complete member is fetched again.
    with (
        half_made(part_file, output, goes_on=True),
        open(handle, "r+b", buffering=0) as file,  # noqa: PTH123 a handle has no path
        log.progress(f"write {output.name}", size) as bar,
        Flusher(file.fileno()) as flusher,
    ):
        done, position = _whole(file, parts, lock)
        file.truncate(position)
        file.seek(position)
        bar.advance(position)
        left = islice(zip(parts, _placed(parts, lock), strict=True), done, None)
        with supply.ahead(part.blob for part in islice(parts, done, None) if part.blob):
            for part, place in left:
                _append(file, part, place, flusher)
                bar.advance(place.end - position)
                position = place.end
        write_all(file, bytes(tar.end_bytes(position)))
        bar.advance(size - position)
        os.fsync(file.fileno())
    settle(part_file, output, synced=True)


def _append(file: FileIO, part: Part, place: tar.Placed, flusher: Flusher) -> None:
    write_all(file, place.prefix)
    for chunk in part.read():
        write_all(file, chunk)
        flusher.wrote(len(chunk))
    write_all(file, bytes(tar.padded(part.target.size) - part.target.size))


def _whole(file: FileIO, parts: list[Part], lock: Lock) -> tuple[int, int]:
    """Return how many complete members the unfinished file starts with, and where they end."""
    file.seek(0)
    end = 0
    for index, (part, place) in enumerate(zip(parts, _placed(parts, lock), strict=True)):
        prefix = place.prefix
        if file.read(len(prefix)) != prefix:  # reads of a regular file are short only at its end
            return index, end
        seen, left = hashlib.sha256(), part.target.size
        while left and (chunk := file.read(min(CHUNK, left))):
            seen.update(chunk)
            left -= len(chunk)
        rest = tar.padded(part.target.size) - part.target.size
        if left or seen.hexdigest() != part.target.digest.hex or len(file.read(rest)) != rest:
            return index, end
        end = place.end
    return len(parts), end
