"""Combine a delta with a store: the result reads like the full bundle.

The delta's own metadata proves who signed the delta. It carries the full bundle's metadata, which
defines the content of the store afterwards. Both are verified before a blob is touched. Everything
that is rebuilt is compared with the full bundle's signed list, as if it had been carried.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle.format import (
    CHUNK,
    COPY_AGAIN,
    DELTA,
    LOOSE,
    MANIFEST,
    METADATA,
    SCRATCH,
    Target,
    member_name,
)
from keystone.bundle.formats import patch, tar, unfold
from keystone.bundle.read import bundle as opened
from keystone.bundle.read import delta_description, stream
from keystone.bundle.read.blobs import blob_path, is_there
from keystone.bundle.read.bundle import Bundle, Head, read_head
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.read.stream import TarStream
from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError, UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from keystone.bundle.model import Digest
    from keystone.bundle.read.delta_description import Delta, Encoded, HeadFile

SHOWN = 20
"""Maximum missing blobs in a message; `bundle have` lists the store's blobs for the packager."""
FRESH = "make a have-list of this store (keystone-install bundle have) and ask for a new delta"


@dataclass(frozen=True)
class Filled:
    """A delta combined with a store: the full bundle's head, and where to get the blobs.

    loose: content of oci-layout and index.json, by name.
    """

    description: Delta
    head: Head
    loose: Mapping[str, bytes]
    store: Path

    @cached_property
    def encoded(self) -> dict[str, Encoded]:
        """The patched members, by the name of the patch."""
        return {entry.member: entry for entry in self.description.encoded}

    @cached_property
    def patched(self) -> dict[str, Encoded]:
        """The patched members, by the name of the member that the patch makes."""
        return {entry.name: entry for entry in self.description.encoded}


@dataclass
class Archive:
    """The members of the full bundle, like a TarStream: carried and rebuilt ones, then the rest."""

    carried: TarStream
    outer: Mapping[str, Target]
    filled: Filled
    _rest: Iterator[tar.Member] | None = None
    _member: tar.Member | None = None
    _entry: Encoded | None = None
    _given: set[str] = field(default_factory=set)

    @property
    def position(self) -> int:
        """Bytes read of the delta."""
        return self.carried.position

    def next(self) -> tar.Member | None:
        """The next member of the full bundle, or None after the last."""
        if self._rest is None:
            member = self.carried.next()
            if member is not None:
                self._entry = self.filled.encoded.get(member.name)
                return self._gives(self._full(member))
            self._entry, self._rest = None, self._left_out()
        member = next(self._rest, None)
        return self._gives(member) if member else None

    def chunks(self) -> Iterator[memoryview]:
        """The data of the current member."""
        if self._member is None:
            raise RuntimeError("no current member")
        if self._entry is not None:
            for piece in self._rebuilt(self._entry):
                yield memoryview(piece)
        elif self._rest is None:
            yield from self.carried.chunks()
        elif self._member.name in self.filled.loose:
            yield memoryview(self.filled.loose[self._member.name])
        else:
            target = self.filled.head.verified.targets[self._member.name]
            with blob_path(self.filled.store, target.digest).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield memoryview(chunk)

    @property
    def parallel(self) -> bool:
        """Always False: members are rebuilt in the order in which the delta carries them."""
        return False

    def piece(self) -> Iterator[memoryview]:
        """Not supported, because `parallel` is False."""
        raise RuntimeError("the members of a delta can only be read in order")

    def skip(self) -> None:
        """Skip the current member, because the store has it."""
        if self._rest is None:
            self.carried.skip()

    def end(self, *, exact: bool) -> None:
        """Check the end of the delta. exact: nothing may follow it."""
        self.carried.end(exact=exact)

    def _gives(self, member: tar.Member) -> tar.Member:
        self._member = member
        self._given.add(member.name)
        return member

    def _full(self, member: tar.Member) -> tar.Member:
        """The member of the full bundle that a member of the delta gives."""
        if self._entry is None:
            return member
        return tar.Member(
            self._entry.name, self.filled.head.verified.targets[self._entry.name].size
        )

    def _left_out(self) -> Iterator[tar.Member]:
        for name, target in self.filled.head.verified.targets.items():
            if name not in self._given and name != MANIFEST:
                yield tar.Member(name, target.size)

    def _rebuilt(self, entry: Encoded) -> Iterator[bytes]:
        """Rebuild a member from its patch, after comparing the patch with the signed list."""
        with tempfile.TemporaryFile(dir=SCRATCH) as kept:
            target = self.outer[entry.member]
            for chunk in stream.checked(self.carried, entry.member, target, "a patch"):
                kept.write(chunk)
            kept.flush()
            yield from rebuild(entry, kept, self.filled)


def rebuild(entry: Encoded, kept: IO[bytes], filled: Filled) -> Iterator[bytes]:
    """Rebuild a blob from the old blob in the store and a checked patch.

    Yields at most the signed size; the caller compares the digest.
    """
    left = filled.head.verified.targets[entry.name].size
    try:
        with (
            _source(filled.store, entry) as old,
            unfold.unfolded(entry.form, old, SCRATCH) as before,
        ):
            for piece in unfold.folded(entry.form, patch.apply(before, kept)):
                left -= len(piece)
                if left < 0:
                    raise ValueError("the result is larger than the signed size")
                yield piece
    except ValueError as error:
        raise DamagedBundleError(
            f"{entry.name}: cannot rebuild it from {entry.source} ({error})",
            hint=FRESH,
            code="KSB-08",
        ) from error


@contextmanager
def _source(store: Path, entry: Encoded) -> Iterator[IO[bytes]]:
    """Open the old blob without following a link. Raises DamagedBundleError (KSB-31)."""
    path = blob_path(store, entry.source)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot open, needed by the patch of {entry.name}: {error.strerror}",
            hint=FRESH,
            code="KSB-31",
        ) from error
    with os.fdopen(handle, "rb") as file:
        yield file


def over(carried: TarStream, outer: Head, store: Path, pin: verify.Pin) -> tuple[Archive, Head]:
    """Combine a delta and a store: returns the members and the head of the full bundle."""
    filled = fill(carried, outer, store, pin)
    return Archive(carried, outer.verified.targets, filled), filled.head


def fill(archive: TarStream, outer: Head, store: Path, pin: verify.Pin) -> Filled:
    """Read a delta's description and head, which follow its table of contents.

    The full bundle's metadata is verified like the delta's: against what this host accepted, and
    under the newest root of the delta, so metadata from before a root rotation is refused.
    Raises UntrustedBundleError; DamagedBundleError, with code KSB-31 when the delta was made for
    another store.
    """
    description = delta_description.load(_member(archive, outer, DELTA))
    delta_description.check(description, outer.verified.targets, outer.manifest)
    files = _head(description, _member(archive, outer, delta_description.HEAD), outer, store)
    metadata = {n.removeprefix(METADATA): d for n, d in files.items() if n.startswith(METADATA)}
    verified = opened.verify_files(metadata, replace(pin, root=outer.verified.root, confirm=None))
    ours = (description.digest, outer.verified.number, outer.verified.created)
    if (verified.digest, verified.number, verified.created) != ours:
        raise UntrustedBundleError(
            f"{delta_description.HEAD}: its metadata belongs to another bundle than {DELTA} names",
            hint=FRESH,
            code="KSB-06",
        )
    delta_description.check_made(description, verified.targets, outer.verified.targets)
    for name, data in files.items():
        target = verified.targets.get(name)
        if not name.startswith(METADATA) and (
            target is None or hashlib.sha256(data).hexdigest() != target.digest.hex
        ):
            raise DamagedBundleError(
                f"{name}: its bytes differ from the signed ones", hint=FRESH, code="KSB-08"
            )
    table = files[MANIFEST]
    head = Head(verified, opened.contents(table, verified), table)
    loose = {name: files[name] for name in LOOSE}
    filled = Filled(description, head, loose, store)
    _require_left_out(filled, outer)
    return filled


def _member(archive: TarStream, outer: Head, name: str) -> bytes:
    """Read and check the next member of the delta's head."""
    member = archive.next()
    target = outer.verified.targets.get(name)
    if member is None or target is None or member.name != name or member.size != target.size:
        raise DamagedBundleError(
            f"no {name} of the signed size in the delta", hint=COPY_AGAIN, code="KSB-19"
        )
    described = name == DELTA
    limit = delta_description.MAX_DESCRIPTION if described else delta_description.MAX_HEAD
    if target.size > limit:
        raise DamagedBundleError(
            f"{name}: {target.size} bytes, the limit is {limit}", hint=COPY_AGAIN, code="KSB-20"
        )
    return b"".join(bytes(chunk) for chunk in stream.checked(archive, name, target, "the delta"))


def _head(description: Delta, frames: bytes, outer: Head, store: Path) -> dict[str, bytes]:
    """Rebuild every file of the full bundle's head and compare it with its digest."""
    files: dict[str, bytes] = {}
    at = 0
    for file in description.head:
        frame = frames[at : at + file.frame]
        at += file.frame
        data = _head_file(file, frame, outer, store)
        if hashlib.sha256(data).hexdigest() != file.digest.hex:
            raise DamagedBundleError(
                f"{file.name}: the rebuilt file has a wrong digest", hint=FRESH, code="KSB-08"
            )
        files[file.name] = data
    if at != len(frames) or not {MANIFEST, *LOOSE} <= set(files):
        raise DamagedBundleError(
            f"{delta_description.HEAD}: does not match its description in {DELTA}",
            hint=FRESH,
            code="KSB-19",
        )
    return files


def _head_file(file: HeadFile, frame: bytes, outer: Head, store: Path) -> bytes:
    """A file of the head: the delta's, or the store's after an interrupted run, or rebuilt."""
    own = outer.verified.files.get(file.name.removeprefix(METADATA), b"")
    here = _stored(store, file.name)
    for data in (own, here):
        if len(data) == file.size and hashlib.sha256(data).hexdigest() == file.digest.hex:
            return data
    old = here if file.source else b""
    if file.source and hashlib.sha256(old).hexdigest() != file.source.hex:
        raise DamagedBundleError(
            f"this delta was made for another version of the store's {file.name}",
            hint=FRESH,
            code="KSB-31",
        )
    try:
        return patch.apply_bytes(old, frame, file.size)
    except ValueError as error:
        raise DamagedBundleError(
            f"{file.name}: cannot rebuild it ({error})", hint=FRESH, code="KSB-08"
        ) from error


def _stored(store: Path, name: str) -> bytes:
    path = store / ("metadata/keystone.json" if name == MANIFEST else name)
    return path.read_bytes() if is_there(path) else b""


def _require_left_out(filled: Filled, outer: Head) -> None:
    """Raise DamagedBundleError (KSB-31) with the list of blobs that the store lacks."""
    verified, table = filled.head.verified, filled.head.manifest
    missing = []
    for name, target in verified.targets.items():
        if delta_description.in_head(name) or name in outer.verified.targets:
            continue
        if is_there(blob_path(filled.store, target.digest), target.size):
            continue
        owner, entry = table.owner(target.digest), filled.patched.get(name)
        if entry is None:
            missing.append(f"{target.digest} ({owner})")
        elif not is_there(blob_path(filled.store, entry.source)):
            missing.append(f"{entry.source} (for a patch of {owner})")
    if missing:
        shown = "\n  ".join(missing[:SHOWN])
        more = f"\n  and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        count = log.count(len(missing), "blob")
        raise DamagedBundleError(
            f"{filled.store}: lacks {count} that this delta leaves out "
            f"(it was made for bundle number {filled.description.base_number}):\n  {shown}{more}",
            hint=FRESH,
            code="KSB-31",
        )


@dataclass(frozen=True)
class OverStore(Bundle):
    """A verified delta with the store of this host, for use as the full bundle."""

    filled: Filled
    outer: Bundle

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        name = member_name(digest, self.manifest)
        entry = self.filled.patched.get(name)
        if entry is None and name in self.outer.offsets:
            super()._copy(digest, sink)
            return
        seen = hashlib.sha256()
        with self._pieces(digest, entry) as pieces:
            for chunk in pieces:
                seen.update(chunk)
                sink.write(chunk)
        if seen.hexdigest() != digest.hex:
            raise DamagedBundleError(
                f"{name} ({self.manifest.owner(digest)}): damaged in {self.filled.store}",
                hint="run keystone-install store status, then bring in the full bundle again",
                code="KSB-08",
            )

    @contextmanager
    def _pieces(self, digest: Digest, entry: Encoded | None) -> Iterator[Iterator[bytes]]:
        here = blob_path(self.filled.store, digest)
        if entry is None or is_there(here):
            with here.open("rb") as file:
                yield iter(lambda: file.read(CHUNK), b"")
            return
        with self.outer.member(entry.member) as kept:
            yield rebuild(entry, kept, self.filled)


def over_store(bundle: Bundle, store: Path, directory: Path = verify.TRUST) -> Bundle:
    """Return a full bundle unchanged; combine a delta with `store` to the full bundle.

    bundle: verified. directory: the folder of this host's pinned root and last accepted bundle.
    Raises as `fill` does, and DamagedBundleError (KSB-30) when the file changed.
    """
    if not bundle.is_delta:
        return bundle
    pin = verify.Pin(root=bundle.verified.root, accepted=verify.host_pin(directory).accepted)
    with open_medium(bundle.path) as medium:
        archive = TarStream(medium.stream)
        outer = read_head(archive, pin)
        if outer.verified.digest != bundle.verified.digest:
            raise DamagedBundleError(
                f"{bundle.path}: changed after verification",
                hint="check the medium; do not swap it during an installation",
                code="KSB-30",
            )
        filled = fill(archive, outer, store, pin)
    return OverStore(
        bundle.path, filled.head.manifest, filled.head.verified, bundle.offsets,
        filled=filled, outer=bundle,
    )  # fmt: skip
