"""The plain content of a backup: a POSIX USTAR archive, whose first member is the manifest.

`age -d -i KEYFILE FILE | tar -x` reads it without Keystone. Our reader accepts regular files with
the names, sizes and digests of the manifest, in its order, and nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from keystone.backup import manifest as manifests
from keystone.backup.manifest import Entry, Manifest
from keystone.backup.seal import COPY
from keystone.bundle.formats import tar
from keystone.errors import DamagedBundleError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

CHUNK = 1 << 20
MANIFEST_LIMIT = 16 << 20
"""Bytes; a tree of a thousand leaves has a manifest of 200 KiB."""
_END = bytes(2 * tar.BLOCK)


class Packed:
    """The archive as a stream, for `seal.seal`: read it once. contents: by name."""

    def __init__(self, manifest: Manifest, contents: Callable[[Entry], Iterable[bytes]]) -> None:
        self._blocks = _archive(manifest, contents)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size`; all that is left if it is negative."""
        if size < 0:
            whole = self._rest + b"".join(self._blocks)
            self._rest = b""
            return whole
        while not self._rest:
            following = next(self._blocks, None)
            if following is None:
                return b""
            self._rest = following
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _archive(manifest: Manifest, contents: Callable[[Entry], Iterable[bytes]]) -> Iterator[bytes]:
    head = manifests.dump(manifest)
    mtime = int(manifest.taken.timestamp())
    yield tar.header(tar.Member(manifests.NAME, len(head), mtime=mtime)) + head + _zeros(len(head))
    for entry in manifest.files:
        yield tar.header(tar.Member(entry.name, entry.size, mtime=mtime))
        digest, size = hashlib.sha256(), 0
        for chunk in contents(entry):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise RefusedError(
                f"{entry.name}: changed while the backup was made",
                hint="run the same command again when nothing else changes this Primer",
            )
        yield _zeros(size)
    yield _END


def _zeros(size: int) -> bytes:
    return bytes(tar.padded(size) - size)


class Receiver(Protocol):
    """What takes the members of an archive."""

    def begin(self, manifest: Manifest) -> None:
        """Take the manifest, before any member. May raise to stop the reading."""

    def open(self, entry: Entry) -> IO[bytes] | None:
        """Return where a member's content goes; None for nowhere. It is closed after the member."""


class Unpacker:
    """Reads an archive that is written to it in pieces; every digest is compared.

    file: its name, for messages. Call `finish` at the end. Raises DamagedBundleError for anything
    but the archive that `Packed` makes.
    """

    def __init__(self, file: object, receiver: Receiver) -> None:
        self._file, self._receiver = file, receiver
        self._buffer = bytearray()
        self._complete: Manifest | None = None
        self._parts = self._reading()
        self._wanted = next(self._parts)

    def write(self, data: bytes, /) -> int:
        """Take the next bytes."""
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            if self._complete is not None:
                if self._buffer:
                    raise self._damaged("bytes follow its end")
                break
            piece = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            # After the last piece nothing more is wanted.
            self._wanted = self._send(piece)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `finish` ends the archive."""

    def finish(self) -> Manifest:
        """Return the manifest of a complete archive."""
        if self._complete is None:
            raise self._damaged("it ends in the middle of a file")
        return self._complete

    def _send(self, piece: bytes) -> int:
        try:
            return self._parts.send(piece)
        except StopIteration:
            if self._complete is None:  # an error has ended it: there is no way on
                raise self._damaged("it was not read further") from None
            return 0

    def _reading(self) -> Generator[int, bytes, None]:
        """Ask for so many bytes, and receive exactly these."""
        manifest = self._manifest((yield tar.BLOCK))
        text = yield tar.padded(manifest.size)
        try:
            listed = manifests.load(text[: manifest.size])
        except ValueError as error:
            raise self._damaged(str(error)) from error
        self._require_names(listed)
        self._receiver.begin(listed)
        for entry in listed.files:
            found = self._header((yield tar.BLOCK))
            if (found.name, found.size) != (entry.name, entry.size):
                raise self._damaged(f"{entry.name} is not where its list says")
            yield from self._member(entry)
        if (yield len(_END)) != _END:
            raise self._damaged("more files than its list has")
        self._complete = listed

    def _member(self, entry: Entry) -> Generator[int, bytes, None]:
        digest, left = hashlib.sha256(), entry.size
        sink = self._receiver.open(entry)
        try:
            while left:
                piece = yield min(left, CHUNK)
                digest.update(piece)
                left -= len(piece)
                if sink is not None:
                    sink.write(piece)
        finally:
            if sink is not None:
                sink.close()
        if digest.hexdigest() != entry.sha256:
            raise self._damaged(f"{entry.name} has another digest than its list says")
        if filling := tar.padded(entry.size) - entry.size:
            yield filling

    def _manifest(self, block: bytes) -> tar.Member:
        head = self._header(block)
        if head.name != manifests.NAME or not 0 < head.size <= MANIFEST_LIMIT:
            raise self._damaged("it does not begin with its list")
        return head

    def _header(self, block: bytes) -> tar.Member:
        try:
            return tar.parse(block, 0)
        except DamagedBundleError as error:
            raise self._damaged("a header of the archive is none") from error

    def _require_names(self, listed: Manifest) -> None:
        """Names become paths below a folder: no absolute ones, no dots, none twice."""
        names = [entry.name for entry in listed.files]
        wrong = [name for name in names if not tar.NAME.fullmatch(name) or name == manifests.NAME]
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        if wrong or len(set(names)) != len(names) or folders & set(names):
            raise self._damaged(f"impossible names: {wrong[:1] or 'one occurs twice'}")

    def _damaged(self, why: str) -> DamagedBundleError:
        return DamagedBundleError(f"{self._file}: its content is not a backup: {why}", hint=COPY)
