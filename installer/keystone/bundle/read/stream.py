"""The strict reader: reads the signed metadata, then only the members that it names.

It rejects any error and never repairs. It needs one pass over a file, a pipe or a block device, and
limited memory. All content is compared with the signed list: a caller that reads a member to its
end without an error has exactly the bytes that were signed.
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

ASK = "ask the packager who made the bundle for a signed one"


class Members(Protocol):
    """A source of a bundle's members in order: an archive, or a delta together with a store."""

    def next(self) -> tar.Member | None:
        """The next member, or None at the end."""

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current member."""

    @property
    def parallel(self) -> bool:
        """Whether members can be read in parallel."""

    def piece(self) -> Iterator[memoryview]:
        """The data of the current member, readable at any time; requires `parallel`."""

    def skip(self) -> None:
        """Skip the current member's data."""

    def end(self, *, exact: bool) -> None:
        """Check the end. exact: nothing may follow the archive."""


@dataclass
class TarStream:
    """Members of a bundle in order. position: bytes from the start of the archive.

    Codes of DamagedBundleError: KSB-09 for an incomplete archive, KSB-30 for a medium that cannot
    be read, KSB-22 for other bytes where zeros are required, KSB-15 for a wrong mode or time, and
    those of `tar.parse`.
    """

    stream: BinaryIO
    position: int = 0
    time: int | None = None
    """The modification time that all members share, in seconds since 1970."""
    _current: tar.Member | None = None
    _left: int = 0
    _buffer: bytearray = field(default_factory=lambda: bytearray(CHUNK), repr=False)

    def next(self) -> tar.Member | None:
        """The next member, or None at the end of the archive. Checks and skips padding."""
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
                f"at byte {self.position}: padding that is not needed",
                hint=COPY_AGAIN,
                code="KSB-22",
            )
        self._require_mode_and_time(member)
        self._current, self._left = member, member.size
        return member

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current member; each view is valid until the next one is requested."""
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
    def parallel(self) -> bool:
        """Whether the archive is a file that several threads can read at once."""
        return isinstance(self.stream, FileIO) and self.stream.seekable()

    def piece(self) -> Iterator[memoryview]:
        """The data of the current member, readable at any time; requires `parallel`."""
        if self._current is None:
            raise RuntimeError("no current member")
        name, size, at = self._current.name, self._current.size, self.position
        return hashing.piece(self.stream.fileno(), name, at, size)

    def skip(self) -> None:
        """Skip the current member's data, without reading it if the stream can seek."""
        member = self._current
        if member is None:
            raise RuntimeError("no current member")
        if not self.stream.seekable():
            for _ in self.chunks():
                pass
            return
        if self._left:
            # Read the last byte, to detect a file that ends inside this member.
            self.stream.seek(self._left - 1, 1)
            self.position += self._left - 1
            self._fill(memoryview(bytearray(1)))
            self._left = 0
        self._zeros(tar.padded(member.size) - member.size, f"the block after {member.name}")

    def end(self, *, exact: bool) -> None:
        """Check the zeros at the end of the archive. exact: nothing may follow them."""
        self._zeros(tar.end_bytes(self.position - tar.BLOCK) - tar.BLOCK, "the end")
        if exact and self._read(memoryview(bytearray(1))):
            raise DamagedBundleError(
                f"bytes after the end of the archive, at {self.position}",
                hint=COPY_AGAIN,
                code="KSB-22",
            )

    def _require_mode_and_time(self, member: tar.Member) -> None:
        """Check mode and time, which are not signed: the name and the first member define them."""
        if self.time is None:
            self.time = member.mtime
        mode = INSTALLER_MODE if member.name == INSTALLER else 0o644
        if (member.mode, member.mtime) != (mode, self.time):
            raise DamagedBundleError(
                f"{member.name}: wrong mode or modification time for a bundle member",
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
            # A pipe can return less than requested; only an empty read is the end.
            count = self._read(view[done:])
            if not count:
                where = f" inside {self._current.name}" if self._current and self._left else ""
                raise DamagedBundleError(
                    f"the bundle ends before byte {self.position + done}{where}: it is truncated",
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
                f"cannot read the bundle at byte {self.position}: {error.strerror}",
                hint="check the medium and its cable, or copy the bundle to another medium",
                code="KSB-30",
            ) from error
        return count or 0

    def _zeros(self, count: int, what: str) -> None:
        data = bytearray(count)
        self._fill(memoryview(data))
        if any(data):
            raise DamagedBundleError(
                f"{what}: must contain only zeros", hint=COPY_AGAIN, code="KSB-22"
            )


def read_metadata(archive: TarStream) -> dict[str, bytes]:
    """The TUF files at the head of a bundle by file name, unverified but within size limits.

    Order: 1.root.json, 2.root.json ..., timestamp.json, snapshot.json, targets.json.
    Raises UntrustedBundleError (KSB-01, KSB-17, KSB-20) when the archive does not start with them.
    """
    files: dict[str, bytes] = {}
    rest = ["timestamp.json", "snapshot.json", "targets.json"]
    while rest:
        member = archive.next()
        name = member.name.removeprefix(METADATA) if member else ""
        is_root = name.endswith(".root.json") and rest[0] == "timestamp.json"
        if member is None or name == member.name or not (is_root or name == rest[0]):
            raise UntrustedBundleError(
                "the bundle does not start with complete signed metadata: it is not signed",
                hint=ASK,
                code="KSB-01",
            )
        role = name.split(".")[-2]
        too_many = is_root and len(files) >= MAX_ROOTS
        if member.size > MAX_BYTES[role] or too_many:
            raise UntrustedBundleError(
                f"{member.name}: exceeds the limit of {MAX_ROOTS} roots"
                if too_many
                else f"{member.name}: {member.size} bytes, the limit is {MAX_BYTES[role]}",
                hint=ASK,
                code="KSB-20",
            )
        if name in files:
            raise UntrustedBundleError(f"{member.name}: appears twice", hint=ASK, code="KSB-17")
        files[name] = b"".join(bytes(chunk) for chunk in archive.chunks())
        if not is_root:
            rest.pop(0)
    return files


def checked(archive: Members, name: str, target: Target, owner: str) -> Iterator[memoryview]:
    """Yield the current member's data. Raises DamagedBundleError as `hashed` does."""
    yield from hashed(archive.chunks(), name, target, owner)


def hashed(
    chunks: Iterable[memoryview], name: str, target: Target, owner: str
) -> Iterator[memoryview]:
    """Yield `chunks`; at their end, raise DamagedBundleError when they do not match `target`."""
    digest, left = hashlib.sha256(), target.size
    for chunk in chunks:
        digest.update(chunk)
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    require_digest("" if left else digest.hexdigest(), name, target, owner)


def require_digest(found: str, name: str, target: Target, owner: str) -> None:
    """Raise DamagedBundleError (KSB-08) when the digest is not the signed one.

    found: the digest of the bytes that were read, in hex.
    """
    if found != target.digest.hex:
        raise DamagedBundleError(
            f"{name} ({owner}): its bytes differ from the signed ones",
            hint=COPY_AGAIN,
            code="KSB-08",
        )


@dataclass(frozen=True)
class Content:
    """One declared member. The caller must read `chunks` to the end, or call `skip` or `detach`.

    chunks: the data, checked. raw: the same, unchecked, for a caller that checks it while writing.
    parallel: whether members can be read in parallel, because they are in a file.
    """

    name: str
    target: Target
    chunks: Iterator[memoryview]
    skip: Callable[[], None]
    raw: Callable[[], Iterator[memoryview]]
    owner: str
    parallel: bool
    _piece: Callable[[], Iterator[memoryview]]

    def detach(self) -> Iterator[memoryview]:
        """The data, unchecked. If `parallel`, any thread can read it later; else read it now."""
        if not self.parallel:
            return self.raw()
        found = self._piece()
        self.skip()
        return found


def read_manifest(archive: TarStream, targets: Mapping[str, Target]) -> bytes:
    """Read the table of contents, which follows the metadata, and check its digest."""
    member = archive.next()
    target = targets.get(MANIFEST)
    if member is None or target is None or member.name != MANIFEST or target.size > MAX_MANIFEST:
        raise DamagedBundleError(
            f"no {MANIFEST} within its size limit after the metadata",
            hint=COPY_AGAIN,
            code="KSB-19",
        )
    _same_size(member, target, "table of contents")
    parts = checked(archive, MANIFEST, target, "table of contents")
    return b"".join(bytes(chunk) for chunk in parts)


def contents(
    archive: Members, targets: Mapping[str, Target], manifest: Manifest, *, exact: bool = True
) -> Iterator[Content]:
    """Yield every declared member after the manifest once, then check the end of the archive.

    exact: nothing may follow the archive (False for a block device).
    Raises DamagedBundleError for an undeclared, repeated, missing, incomplete or changed member.
    """
    wanted = {name: target for name, target in targets.items() if name != MANIFEST}
    while (member := archive.next()) is not None:
        name = member.name
        target = wanted.pop(name, None)
        if target is None:
            twice = name in targets
            why = "appears twice" if twice else "the signed metadata does not name this member"
            code = "KSB-17" if twice else "KSB-19"
            raise DamagedBundleError(f"{name}: {why}", hint=COPY_AGAIN, code=code)
        owner = manifest.owner(target.digest)
        _same_size(member, target, owner)
        yield Content(
            member.name,
            target,
            checked(archive, name, target, owner),
            archive.skip,
            archive.chunks,
            owner,
            archive.parallel,
            archive.piece,
        )
    archive.end(exact=exact)
    for name, target in wanted.items():
        raise DamagedBundleError(
            f"{name} ({manifest.owner(target.digest)}): missing in the bundle",
            hint=COPY_AGAIN,
            code="KSB-19",
        )


def _same_size(member: tar.Member, target: Target, owner: str) -> None:
    if member.size != target.size:
        raise DamagedBundleError(
            f"{member.name} ({owner}): {member.size} bytes, the signed size is {target.size}",
            hint=COPY_AGAIN,
            code="KSB-11",
        )
