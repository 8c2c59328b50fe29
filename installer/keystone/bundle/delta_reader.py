"""Fill the gaps of a delta from what a store has: out comes what the full bundle would have given.

The delta's own metadata says that its maker signed it; the full bundle's, which it carries, says
what the store must be afterwards. Both are verified before a blob is touched, and everything that
is rebuilt is compared with the full bundle's signed list, as if it had been carried.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from keystone.bundle import delta, forms, patch, reader, tar, trust
from keystone.bundle import manifest as contents_file
from keystone.bundle.opened import Bundle, Head, member_name, read_head
from keystone.bundle.reader import CHUNK, METADATA, Target, TarStream
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from keystone.bundle.delta import Delta, Encoded, HeadFile
    from keystone.bundle.model import Digest

SHOWN = 20
"""How many missing blobs a message names; `bundle have` tells the packager all."""
FRESH = "make a have-list of this store (keystone-install bundle have) and ask for a new delta"


def blob_path(store: Path, digest: Digest) -> Path:
    """Where a blob lies in a store."""
    return store / "blobs/sha256" / digest.hex


@dataclass(frozen=True)
class Filled:
    """What a delta and a store give together: the full bundle's head, and how to get the rest.

    loose: the files of the head that are no metadata, by name.
    """

    description: Delta
    head: Head
    loose: Mapping[str, bytes]
    store: Path

    @property
    def encoded(self) -> dict[str, Encoded]:
        """What comes as a patch, by the name of the patch."""
        return {entry.member: entry for entry in self.description.encoded}


@dataclass
class Archive:
    """The members of the full bundle, as a TarStream gives them: carried, rebuilt, left out."""

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

    def skip(self) -> None:
        """Pass the current member: the store has it."""
        if self._rest is None:
            self.carried.skip()

    def end(self, *, exact: bool) -> None:
        """Check that the delta ends where it should."""
        self.carried.end(exact=exact)

    def _gives(self, member: tar.Member) -> tar.Member:
        self._member = member
        self._given.add(member.name)
        return member

    def _full(self, member: tar.Member) -> tar.Member:
        """What a member of the delta stands for."""
        if self._entry is None:
            return member
        target = self.filled.head.verified.targets.get(self._entry.name)
        if target is None:
            raise DamagedBundleError(f"{member.name}: makes what the bundle does not hold")
        return tar.Member(self._entry.name, target.size)

    def _left_out(self) -> Iterator[tar.Member]:
        for name, target in self.filled.head.verified.targets.items():
            if name not in self._given and name != reader.MANIFEST:
                yield tar.Member(name, target.size)

    def _rebuilt(self, entry: Encoded) -> Iterator[bytes]:
        """The full member from its patch, which is compared with the signed list first."""
        with tempfile.TemporaryFile(dir=self.filled.store) as kept:
            target = self.outer[entry.member]
            for chunk in reader.checked(self.carried, entry.member, target, "a patch"):
                kept.write(chunk)
            kept.flush()
            yield from rebuild(entry, kept, self.filled.store)


def rebuild(entry: Encoded, kept: IO[bytes], store: Path) -> Iterator[bytes]:
    """A blob from the old one in the store and a patch whose bytes were checked."""
    try:
        with (
            blob_path(store, entry.source).open("rb") as old,
            forms.unfolded(entry.form, old, store) as before,
        ):
            yield from forms.folded(entry.form, patch.apply(before, kept))
    except ValueError as error:
        raise DamagedBundleError(
            f"{entry.name}: cannot be rebuilt from {entry.source} ({error})", hint=FRESH
        ) from error


def over(carried: TarStream, outer: Head, store: Path, pin: trust.Pin) -> tuple[Archive, Head]:
    """The members and the head of the full bundle that a delta and a store give together."""
    filled = fill(carried, outer, store, pin)
    return Archive(carried, outer.verified.targets, filled), filled.head


def fill(archive: TarStream, outer: Head, store: Path, pin: trust.Pin) -> Filled:
    """Read a delta's description and head, which stand after its table of contents.

    Raises UntrustedBundleError, and DamagedBundleError when the store lacks what is left out.
    """
    description = delta.load(_member(archive, outer, delta.DESCRIPTOR))
    files = _head(description, _member(archive, outer, delta.HEAD), outer, store)
    metadata = {n.removeprefix(METADATA): d for n, d in files.items() if n.startswith(METADATA)}
    verified = trust.verify(metadata, trust.Pin(root=outer.verified.root, accepted=pin.accepted))
    if verified.digest != description.digest:
        raise DamagedBundleError(f"{delta.HEAD}: of another bundle than {delta.DESCRIPTOR} names")
    for name, data in files.items():
        target = verified.targets.get(name)
        if not name.startswith(METADATA) and (
            target is None or hashlib.sha256(data).hexdigest() != target.digest.hex
        ):
            raise DamagedBundleError(f"{name}: its bytes are not the ones that were signed")
    table = files[reader.MANIFEST]
    head = Head(metadata, verified, contents_file.load(table), table)
    loose = {name: files[name] for name in delta.LOOSE}
    filled = Filled(description, head, loose, store)
    _require_left_out(filled, outer)
    return filled


def _member(archive: TarStream, outer: Head, name: str) -> bytes:
    """The next member of the delta's head, checked."""
    member = archive.next()
    target = outer.verified.targets.get(name)
    if member is None or target is None or member.name != name or member.size != target.size:
        raise DamagedBundleError(f"no {name} at the head of the delta", hint=reader.COPY_AGAIN)
    if target.size > reader.MAX_MANIFEST:
        raise DamagedBundleError(f"{name}: larger than any honest one")
    return b"".join(bytes(chunk) for chunk in reader.checked(archive, name, target, "the delta"))


def _head(description: Delta, frames: bytes, outer: Head, store: Path) -> dict[str, bytes]:
    """Every file of the full bundle's head, each compared with its digest."""
    files: dict[str, bytes] = {}
    at = 0
    for file in description.head:
        frame = frames[at : at + file.frame]
        at += file.frame
        data = _head_file(file, frame, outer, store)
        if hashlib.sha256(data).hexdigest() != file.digest.hex:
            raise DamagedBundleError(f"{file.name}: rebuilt with other bytes", hint=FRESH)
        files[file.name] = data
    if at != len(frames) or not {reader.MANIFEST, *delta.LOOSE} <= set(files):
        raise DamagedBundleError(f"{delta.HEAD}: not the head that {delta.DESCRIPTOR} describes")
    return files


def _head_file(file: HeadFile, frame: bytes, outer: Head, store: Path) -> bytes:
    """A file from the delta, or the store's own when a cut run had brought it, or rebuilt."""
    own = outer.files.get(file.name.removeprefix(METADATA), b"")
    here = _stored(store, file.name)
    for data in (own, here):
        if len(data) == file.size and hashlib.sha256(data).hexdigest() == file.digest.hex:
            return data
    old = here if file.source else b""
    if file.source and hashlib.sha256(old).hexdigest() != file.source.hex:
        raise DamagedBundleError(
            f"the store's {file.name} is not the one that this delta was made for", hint=FRESH
        )
    try:
        if file.size > reader.MAX_MANIFEST:
            raise ValueError("larger than any honest one")
        return patch.apply_bytes(old, frame, file.size)
    except ValueError as error:
        raise DamagedBundleError(f"{file.name}: cannot be rebuilt ({error})", hint=FRESH) from error


def _stored(store: Path, name: str) -> bytes:
    path = store / ("metadata/keystone.json" if name == reader.MANIFEST else name)
    return path.read_bytes() if path.is_file() else b""


def _require_left_out(filled: Filled, outer: Head) -> None:
    """Raises DamagedBundleError with the blobs that the store lacks."""
    verified, table = filled.head.verified, filled.head.manifest
    rebuilt = {entry.name: entry for entry in filled.description.encoded}
    missing = []
    for name, target in verified.targets.items():
        if delta.in_head(name) or name in outer.verified.targets:
            continue
        if _has(filled.store, target.digest, target.size):
            continue
        if name in rebuilt:
            if blob_path(filled.store, rebuilt[name].source).is_file():
                continue
            missing.append(f"{rebuilt[name].source} (for a patch of {table.owner(target.digest)})")
        else:
            missing.append(f"{target.digest} ({table.owner(target.digest)})")
    if missing:
        shown = "\n  ".join(missing[:SHOWN])
        more = f"\n  and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DamagedBundleError(
            f"{filled.store}: lacks {len(missing)} blobs that this delta leaves out "
            f"(it was made for bundle number {filled.description.base_number}):\n  {shown}{more}",
            hint=FRESH,
        )


def _has(store: Path, digest: Digest, size: int) -> bool:
    path = blob_path(store, digest)
    return path.is_file() and path.stat().st_size == size


@dataclass(frozen=True)
class OverStore(Bundle):
    """A verified delta together with the store of this host: to be used as the full bundle."""

    filled: Filled
    outer: Bundle

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        name = member_name(digest, self.manifest)
        entry = {e.name: e for e in self.filled.description.encoded}.get(name)
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
                hint="keystone-install store status; bring the full bundle in again",
            )

    @contextmanager
    def _pieces(self, digest: Digest, entry: Encoded | None) -> Iterator[Iterator[bytes]]:
        store = self.filled.store
        here = blob_path(store, digest)
        if entry is None or here.is_file():
            with here.open("rb") as file:
                yield iter(lambda: file.read(CHUNK), b"")
            return
        with self.outer.member(entry.member) as kept:
            yield rebuild(entry, kept, store)


def over_store(bundle: Bundle, store: Path) -> Bundle:
    """A verified bundle as it is; a verified delta as the full bundle that it makes of `store`.

    Raises DamagedBundleError when the store lacks what the delta leaves out.
    """
    if not delta.is_delta(bundle.verified.targets):
        return bundle
    with bundle.path.open("rb", buffering=0) as stream:
        archive = TarStream(stream)
        pin = trust.Pin(root=bundle.verified.root)
        outer = read_head(archive, pin)
        filled = fill(archive, outer, store, pin)
    return OverStore(
        bundle.path, filled.head.manifest, filled.head.verified, bundle.offsets,
        filled=filled, outer=bundle,
    )  # fmt: skip
