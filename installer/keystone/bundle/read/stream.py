"""The strict reader: signed metadata first, then only what it names. Reject, never repair.

One pass over a file, a pipe or a block device, with bounded memory. Every byte that a caller gets
to keep was compared with the signed list; a caller that reads a member to its end without an
error holds exactly what was signed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO, Protocol

from keystone.bundle.format import (
    CHUNK,
    COPY_AGAIN,
    INSTALLER,
    INSTALLER_MODE,
    MANIFEST,
    MAX_BYTES,
    MAX_MANIFEST,
    MAX_ROOTS,
    METADATA,
)
from keystone.bundle.formats import hashing, tar
from keystone.errors import DamagedBundleError, UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from keystone.bundle.format import Target
    from keystone.bundle.model import Manifest

ASK = "ask whoever made the bundle for a signed one"


class Members(Protocol):
    """What gives the members of a bundle in order: an archive, or a delta and a store together."""

    def next(self) -> tar.Member | None:
        """The next member, or None at the end."""

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current member."""

    @property
    def apart(self) -> bool:
        """Whether members can be read side by side."""

    def piece(self) -> Iterator[memoryview]:
        """The data of the current member, to be read whenever; only where they lie `apart`."""

    def skip(self) -> None:
        """Pass the current member's data."""

    def end(self, *, exact: bool) -> None:
        """Check the end."""


@dataclass
class TarStream:
    """Members of a bundle in order. `position` counts bytes from the start of the archive.

    Every DamagedBundleError has a code: KSB-09 for an archive that ends early, KSB-30 for a medium
    that cannot be read, KSB-22 for bytes where zeros belong, others as `tar.parse`.
    """

    stream: BinaryIO
    position: int = 0
    time: int | None = None
    """The one modification time of all members, in seconds since 1970."""
    _current: tar.Member | None = None
    _left: int = 0
    _buffer: bytearray = field(default_factory=lambda: bytearray(CHUNK), repr=False)

    def next(self) -> tar.Member | None:
        """The next member, or None at the end of the archive. Padding is checked and passed."""
        if self._left:
            raise RuntimeError(f"{self._current}: not read to its end")
        member = self._header()
        if member is None:
            return None
        pad = tar.padding_before(self.position - tar.BLOCK, member.mtime)
        if pad is not None:
            if member != pad:
                raise DamagedBundleError(
                    f"{member.name}: its data is not aligned to {tar.ALIGN} bytes",
                    hint=COPY_AGAIN,
                    code="KSB-22",
                )
            self._zeros(pad.size, "padding")
            member = self._header()
        if member is None or member.name == tar.PADDING:
            raise DamagedBundleError(
                f"at byte {self.position}: padding that pads nothing",
                hint=COPY_AGAIN,
                code="KSB-22",
            )
        self._one_form(member)
        self._current, self._left = member, member.size
        return member

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current member; each view is valid until the next one is asked for."""
        member = self._current
        if member is None:
            raise RuntimeError("no current member")
        view = memoryview(self._buffer)
        while self._left:
            part = view[: min(CHUNK, self._left)]
            self._fill(part)
            self._left -= len(part)
            yield part
        self._zeros(tar.padded(member.size) - member.size, f"the block after {member.name}")

    @property
    def apart(self) -> bool:
        """Whether the archive lies in a file that several threads can read at once."""
        return isinstance(self.stream, FileIO) and self.stream.seekable()

    def piece(self) -> Iterator[memoryview]:
        """The data of the current member, to be read whenever; only where it lies `apart`."""
        if self._current is None:
            raise RuntimeError("no current member")
        name, size, at = self._current.name, self._current.size, self.position
        return hashing.piece(self.stream.fileno(), name, at, size)

    def skip(self) -> None:
        """Pass the current member's data unread where the stream can seek."""
        member = self._current
        if member is None:
            raise RuntimeError("no current member")
        if not self.stream.seekable():
            for _ in self.chunks():
                pass
            return
        if self._left:
            # The last byte is read, so that a file cut inside this member does not pass.
            self.stream.seek(self._left - 1, 1)
            self.position += self._left - 1
            self._fill(memoryview(bytearray(1)))
            self._left = 0
        self._zeros(tar.padded(member.size) - member.size, f"the block after {member.name}")

    def end(self, *, exact: bool) -> None:
        """Check the zeros that end the archive; exact: nothing may follow them."""
        self._zeros(tar.end_bytes(self.position - tar.BLOCK) - tar.BLOCK, "the end")
        if exact and self._read(memoryview(bytearray(1))):
            raise DamagedBundleError(
                f"bytes after the end of the archive, at {self.position}",
                hint=COPY_AGAIN,
                code="KSB-22",
            )

    def _one_form(self, member: tar.Member) -> None:
        """Mode and time are not signed one by one: they follow from the name and the first."""
        if self.time is None:
            self.time = member.mtime
        mode = INSTALLER_MODE if member.name == INSTALLER else 0o644
        if (member.mode, member.mtime) != (mode, self.time):
            raise DamagedBundleError(
                f"{member.name}: another mode or time than a bundle's members have",
                hint=COPY_AGAIN,
                code="KSB-15",
            )

    def _header(self) -> tar.Member | None:
        at = self.position
        block = bytearray(tar.BLOCK)
        self._fill(memoryview(block))
        return tar.parse(bytes(block), at) if any(block) else None

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            # A pipe gives what it has; only nothing at all is the end.
            count = self._read(view[done:])
            if not count:
                where = f" inside {self._current.name}" if self._current and self._left else ""
                raise DamagedBundleError(
                    f"the bundle ends at byte {self.position + done}{where}: it is truncated",
                    hint=COPY_AGAIN,
                    code="KSB-09",
                )
            done += count
        self.position += done

    def _read(self, view: memoryview) -> int:
        try:
            count: int | None = self.stream.readinto(view)  # type: ignore[attr-defined]
        except OSError as error:
            raise DamagedBundleError(
                f"the bundle cannot be read at byte {self.position}: {error.strerror}",
                hint="look at the medium and its cable, or copy the bundle to another one",
                code="KSB-30",
            ) from error
        return count or 0

    def _zeros(self, count: int, what: str) -> None:
        data = bytearray(count)
        self._fill(memoryview(data))
        if any(data):
            raise DamagedBundleError(
                f"{what}: bytes that should be zero are not", hint=COPY_AGAIN, code="KSB-22"
            )


def read_metadata(archive: TarStream) -> dict[str, bytes]:
    """The TUF files at the head of a bundle by file name, unverified but within caps.

    Order: 1.root.json, 2.root.json ..., timestamp.json, snapshot.json, targets.json.
    Raises UntrustedBundleError when the archive does not start with them.
    """
    files: dict[str, bytes] = {}
    rest = ["timestamp.json", "snapshot.json", "targets.json"]
    while rest:
        member = archive.next()
        name = member.name.removeprefix(METADATA) if member else ""
        is_root = name.endswith(".root.json") and rest[0] == "timestamp.json"
        if member is None or name == member.name or not (is_root or name == rest[0]):
            raise UntrustedBundleError(
                "the bundle has no complete signed metadata at its head: it is not signed",
                hint=ASK,
                code="KSB-01",
            )
        role = name.split(".")[-2]
        too_many = is_root and len(files) >= MAX_ROOTS
        if member.size > MAX_BYTES[role] or too_many:
            raise UntrustedBundleError(
                f"{member.name}: larger or more than any honest metadata", hint=ASK, code="KSB-20"
            )
        if name in files:
            raise UntrustedBundleError(f"{member.name}: inside twice", hint=ASK, code="KSB-17")
        files[name] = b"".join(bytes(chunk) for chunk in archive.chunks())
        if not is_root:
            rest.pop(0)
    return files


def checked(archive: Members, name: str, target: Target, owner: str) -> Iterator[memoryview]:
    """The current member's data; raises DamagedBundleError at its end when it is not `target`."""
    yield from hashed(archive.chunks(), name, target, owner)


def hashed(
    chunks: Iterable[memoryview], name: str, target: Target, owner: str
) -> Iterator[memoryview]:
    """The same chunks; raises DamagedBundleError at their end when they are not `target`."""
    digest, left = hashlib.sha256(), target.size
    for chunk in chunks:
        digest.update(chunk)
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    require_digest("" if left else digest.hexdigest(), name, target, owner)


def require_digest(found: str, name: str, target: Target, owner: str) -> None:
    """Raises DamagedBundleError (KSB-08) when these are not the bytes that were signed.

    found: the digest of what came, in hex.
    """
    if found != target.digest.hex:
        raise DamagedBundleError(
            f"{name} ({owner}): its bytes are not the ones that were signed",
            hint=COPY_AGAIN,
            code="KSB-08",
        )


@dataclass(frozen=True)
class Content:
    """One declared member: `chunks` must be read to the end, or `skip` or `taken` called instead.

    chunks: the data, checked. raw: the same unchecked, for who checks it while writing.
    apart: whether members can be read side by side, since they lie in a file.
    """

    name: str
    target: Target
    chunks: Iterator[memoryview]
    skip: Callable[[], None]
    raw: Callable[[], Iterator[memoryview]]
    owner: str
    apart: bool
    _piece: Callable[[], Iterator[memoryview]]

    def taken(self) -> Iterator[memoryview]:
        """The data, unchecked. `apart`: to be read whenever and by whatever thread; else now."""
        if not self.apart:
            return self.raw()
        found = self._piece()
        self.skip()
        return found


def read_manifest(archive: TarStream, targets: Mapping[str, Target]) -> bytes:
    """The table of contents, which stands right after the metadata; its bytes are checked."""
    member = archive.next()
    target = targets.get(MANIFEST)
    if member is None or target is None or member.name != MANIFEST or target.size > MAX_MANIFEST:
        raise DamagedBundleError(
            f"no {MANIFEST} after the metadata", hint=COPY_AGAIN, code="KSB-19"
        )
    _same_size(member, target, "table of contents")
    parts = checked(archive, MANIFEST, target, "table of contents")
    return b"".join(bytes(chunk) for chunk in parts)


def contents(
    archive: Members, targets: Mapping[str, Target], manifest: Manifest, *, exact: bool = True
) -> Iterator[Content]:
    """Every declared member after the manifest, each once, and then the end of the archive.

    Raises DamagedBundleError for an undeclared, repeated, missing, cut or changed member.
    exact: the stream must end where the archive does (a block device is larger).
    """
    wanted = {name: target for name, target in targets.items() if name != MANIFEST}
    while (member := archive.next()) is not None:
        name = member.name
        target = wanted.pop(name, None)
        if target is None:
            twice = name in targets
            kind = "twice" if twice else "but the signed metadata does not name it"
            code = "KSB-17" if twice else "KSB-19"
            raise DamagedBundleError(f"{name}: inside {kind}", hint=COPY_AGAIN, code=code)
        owner = manifest.owner(target.digest)
        _same_size(member, target, owner)
        yield Content(
            member.name,
            target,
            checked(archive, name, target, owner),
            archive.skip,
            archive.chunks,
            owner,
            archive.apart,
            archive.piece,
        )
    archive.end(exact=exact)
    for name, target in wanted.items():
        raise DamagedBundleError(
            f"{name} ({manifest.owner(target.digest)}) is missing from the bundle",
            hint=COPY_AGAIN,
            code="KSB-19",
        )


def _same_size(member: tar.Member, target: Target, owner: str) -> None:
    if member.size != target.size:
        raise DamagedBundleError(
            f"{member.name} ({owner}): {member.size} bytes, {target.size} were signed",
            hint=COPY_AGAIN,
            code="KSB-11",
        )
