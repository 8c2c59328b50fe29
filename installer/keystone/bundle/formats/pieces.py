"""Streams that are read once, in pieces of limited size: the base of the readers of archives.

A reader peeks ahead, reads what it needs and skips the rest; it never holds the whole stream. A
blob or a file, which can be read at any offset, is skipped without reading.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO

PIECE = 1 << 18
"""Maximum bytes of a piece, and of the output of one step of decompression."""


class UnreadableError(ValueError):
    """The bytes do not have the format of their first ones, or exceed a limit."""


class CutError(UnreadableError):
    """The stream ends before its format does."""


class Reader:
    """Read pieces as one stream. position: bytes from its start."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self.position = 0

    def some(self, limit: int = PIECE) -> memoryview:
        """Return at most `limit` bytes; nothing only at the end."""
        while not self._rest:
            piece = self._next()
            if piece is None:
                return self._rest
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:limit], self._rest[limit:]
        self.position += len(part)
        return part

    def exactly(self, count: int) -> bytes:
        """Return exactly that many bytes. Raises CutError when the stream ends earlier."""
        return b"".join(self.blocks(count))

    def blocks(self, count: int) -> Iterator[memoryview]:
        """Yield that many bytes in pieces. Raises CutError when the stream ends earlier."""
        while count:
            part = self.some(min(count, PIECE))
            if not part:
                raise CutError(f"ends early, at byte {self.position}")
            count -= len(part)
            yield part

    def pass_by(self, count: int) -> None:
        """Skip that many bytes. Raises CutError when the stream ends earlier."""
        for _ in self.blocks(count):
            pass

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them; fewer at the end."""
        parts: list[memoryview] = []
        have = 0
        while have < count and (part := self.some()):
            parts.append(part)
            have += len(part)
        self.give_back(b"".join(parts))
        return bytes(self._rest[:count])

    def give_back(self, data: bytes) -> None:
        """Put bytes back that were read but not used."""
        self._rest = memoryview(data + bytes(self._rest))
        self.position -= len(data)

    def _next(self) -> bytes | memoryview | None:
        return next(self._pieces, None)


class Seekable(Reader):
    """Read a source that can be read at any offset; skip without reading.

    read: returns bytes for offset and count, fewer at the end. size: of the source, in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(())
        self._read, self._size = read, size

    def pass_by(self, count: int) -> None:
        """Skip without reading; see Reader.pass_by."""
        if self.position + count > self._size:
            raise CutError(f"ends early, at byte {self._size}")
        self._rest = self._rest[count:]
        self.position += count

    def _next(self) -> bytes | None:
        # Nothing is buffered here, so the next piece starts at the position.
        return self._read(self.position, min(PIECE, self._size - self.position)) or None


def of_file(file: IO[bytes]) -> Seekable:
    """Read an open file from its start, without moving its own offset."""
    handle = file.fileno()
    return Seekable(lambda at, count: os.pread(handle, count, at), os.fstat(handle).st_size)
