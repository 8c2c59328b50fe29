"""The content store of a host: an OCI image layout whose blobs were hashed before they got a name.

`ingest` reads a bundle once, from a file, a device or a pipe: read, hash, write, sync, rename.
A blob that has its final name was whole when it got it, so a run that was cut goes on.
`metadata/targets.json` is written last: while it is there, what it lists is there too.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO

from keystone import log
from keystone.bundle import manifest as contents_file
from keystone.bundle import publishable
from keystone.bundle.delta import over_store
from keystone.bundle.format import (
    CHUNK,
    COPY_AGAIN,
    INSTALLER,
    INSTALLER_MODE,
    LOOSE,
    MANIFEST,
    Target,
)
from keystone.bundle.formats import strict_json
from keystone.bundle.model import Manifest
from keystone.bundle.read import content as layout
from keystone.bundle.read import delta_description
from keystone.bundle.read import stream as reader
from keystone.bundle.read.blobs import InFolder, blob_path, is_there
from keystone.bundle.read.bundle import Head, read_head
from keystone.bundle.read.stream import Members, TarStream
from keystone.bundle.trust import verify
from keystone.bundle.trust.verify import stored_targets
from keystone.errors import DamagedBundleError, HostError, RefusedError
from keystone.files import refusal, sync_directory, write_file
from keystone.lockfile import only_one
from keystone.store.intake import Arrival, Intake

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self


@dataclass(frozen=True)
class Ingested:
    """What `ingest` did. blobs and bytes count what was written, not what was there."""

    changed: bool
    bundle: str
    number: int
    digest: str
    blobs: int
    bytes: int


@dataclass(frozen=True)
class Status:
    """What a store holds. complete: every blob of the bundle is there in its full size."""

    bundle: str
    number: int
    digest: str
    complete: bool
    blobs: int
    bytes: int
    missing: int


class Writer:
    """The only way into a store. Verified metadata opens it, for what they list and no byte else.

    A context: `take` each member, then `commit`. What a run that was cut left is cleared or used.
    """

    def __init__(self, store: Path, verified: verify.Verified) -> None:
        if not isinstance(verified, verify.Verified):
            raise TypeError("a store is written from a verified bundle only")
        self._store, self._verified = store, verified
        self._incoming = store / "incoming"
        _clear(store)
        self._intake = Intake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._intake.close()
        with suppress(OSError):  # what is whole has its place among the blobs
            for left in self._incoming.iterdir():
                left.unlink()

    def take(
        self,
        name: str,
        chunks: Iterable[bytes | memoryview],
        owner: str = "the bundle",
        *,
        apart: bool = False,
    ) -> None:
        """Keep one member; its final name comes after its last byte was hashed and synced.

        owner: what it belongs to, for messages. apart: `chunks` may be read by another thread.
        Raises DamagedBundleError for a name that nobody signed, and for other bytes than those
        that were signed under it: then, or at a later `take` or at `settle`.
        """
        target = self._verified.targets.get(name)
        if target is None:
            raise DamagedBundleError(f"{name}: nobody signed it", hint=COPY_AGAIN, code="KSB-19")
        loose = name == MANIFEST or name in LOOSE
        final = self._incoming / name if loose else blob_path(self._store, target.digest)
        mode = INSTALLER_MODE if name == INSTALLER else 0o644
        temporary = self._incoming / f"{name.replace('/', '-')}.part"
        self._intake.take(chunks, Arrival(name, target, owner, temporary, final, mode), apart=apart)

    def has(self, name: str) -> bool:
        """Whether the store holds this blob whole already."""
        target = self._verified.targets.get(name)
        if target is None or name == MANIFEST or name in LOOSE:
            return False
        return is_there(blob_path(self._store, target.digest), target.size)

    def settle(self) -> None:
        """Wait until all that was taken is in its place; raises what `take` could not yet."""
        self._intake.settle()

    def commit(self, manifest: Manifest) -> None:
        """Look into what came, then name the bundle's own files.

        `metadata/targets.json` comes last: what it lists is there and was looked at.
        """
        self.settle()
        sync_directory(self._store / "blobs/sha256")
        blobs = InFolder(self._store / "blobs/sha256")
        layout.check(manifest, self._verified.targets, self._read, blobs)
        publishable.check(manifest, blobs, self._verified.created)
        for name in LOOSE:
            (self._incoming / name).replace(self._store / name)
        metadata = self._store / "metadata"
        metadata.mkdir(exist_ok=True)
        (self._incoming / MANIFEST).replace(metadata / MANIFEST)
        for name, data in self._verified.files.items():
            write_file(metadata / name, data)
        self._incoming.rmdir()
        sync_directory(self._store)

    def _read(self, name: str) -> bytes:
        return (self._incoming / name).read_bytes()


def ingest(
    stream: BinaryIO, store: Path, pin: verify.Pin, *, exact: bool = True
) -> tuple[Ingested, verify.Verified]:
    """Bring a bundle into the store in one pass; nothing is kept of what was not signed.

    A delta brings the bundle that it makes together with the store: the one whose metadata it
    carries, verified like its own. exact: the stream ends where the archive does.
    Raises UntrustedBundleError before anything is written, DamagedBundleError for content (whole
    blobs that came before it stay), HostError when the store cannot be written.
    """
    carried = TarStream(stream)
    archive: Members = carried
    head = read_head(carried, pin)
    try:
        with only_one(store / ".lock", str(store)):
            if delta_description.is_delta(head.verified.targets):
                archive, head = over_store.over(carried, head, store, pin)
            digest = str(head.verified.digest)
            before = status(store)
            if before.complete and before.digest == digest:
                _drain(stream)
                return _result(head, blobs=0, written=0, changed=False), head.verified
            _require_space(store, head)
            mark(store, digest, complete=False)
            blobs, written = _receive(archive, head, store, exact=exact)
    except OSError as error:
        raise refusal(error, store) from error
    return _result(head, blobs=blobs, written=written, changed=True), head.verified


def _receive(archive: Members, head: Head, store: Path, *, exact: bool) -> tuple[int, int]:
    """Every member into its place; how many were written, and their bytes."""
    targets = head.verified.targets
    written = blobs = 0
    total = sum(target.size for target in targets.values())
    with (
        log.progress("bring the bundle into the store", total) as bar,
        Writer(store, head.verified) as writer,
    ):
        writer.take(MANIFEST, [memoryview(head.manifest_bytes)])
        bar.advance(len(head.manifest_bytes))
        for content in reader.contents(archive, targets, head.manifest, exact=exact):
            if writer.has(content.name):
                content.skip()
            else:
                writer.take(content.name, content.taken(), content.owner, apart=content.apart)
                written += content.target.size
                blobs += 1
            bar.advance(content.target.size)
        writer.commit(head.manifest)
    return blobs, written


def status(store: Path) -> Status:
    """What the store holds, by names and sizes: a name is only ever given to hashed bytes."""
    try:
        targets_bytes = (store / "metadata/targets.json").read_bytes()
        manifest = load_manifest(store)
    except FileNotFoundError:
        return Status("", 0, "", complete=False, blobs=0, bytes=0, missing=0)
    targets = stored_targets(targets_bytes)
    missing = [name for name, target in targets.items() if not _there(store, name, target)]
    return Status(
        bundle=manifest.name,
        number=manifest.number,
        digest=f"sha256:{_sha256(targets_bytes)}",
        complete=not missing,
        blobs=len(targets),
        bytes=sum(target.size for target in targets.values()),
        missing=len(missing),
    )


def load_manifest(store: Path) -> Manifest:
    """The table of contents of the bundle in the store."""
    return contents_file.load((store / "metadata" / MANIFEST).read_bytes())


def mark(store: Path, digest: str, *, complete: bool) -> None:
    """Write state.json, which the facts probe reads: which bundle, and whether it is served."""
    document = {"bundle": digest, "complete": complete}
    write_file(store / "state.json", (json.dumps(document, sort_keys=True) + "\n").encode())


def marked(store: Path) -> str:
    """The bundle that state.json says is here and served ("sha256:..."); empty when there is none.

    So it is, too, when the file is not whole: nothing is built on it then.
    """
    try:
        document = strict_json.loads((store / "state.json").read_bytes())
        return str(document["bundle"]) if document["complete"] is True else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def holds(store: Path, verified: verify.Verified) -> bool:
    """Whether all of this bundle is here: the same signed list, and each blob in its full size.

    A name is only ever given to hashed bytes; whether they are still the same is not asked.
    """
    if marked(store) != str(verified.digest):
        return False
    try:
        listed = (store / "metadata/targets.json").read_bytes()
    except OSError:
        return False
    return _sha256(listed) == verified.digest.hex and all(
        _there(store, name, target) for name, target in verified.targets.items()
    )


def as_json(value: Ingested | Status) -> dict[str, object]:
    """For --json."""
    return asdict(value)


def _there(store: Path, name: str, target: Target) -> bool:
    if name == MANIFEST:
        return is_there(store / "metadata" / name, target.size)
    if name in LOOSE:
        path = store / name
        return path.is_file() and _sha256(path.read_bytes()) == target.digest.hex
    return is_there(blob_path(store, target.digest), target.size)


def _require_space(store: Path, head: Head) -> None:
    needed = sum(
        target.size for name, target in head.verified.targets.items()
        if not _there(store, name, target)
    )  # fmt: skip
    found = os.statvfs(store)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise HostError(
            f"{store}: {log.size(needed)} are needed, {log.size(free)} are free",
            hint="make room or use larger disks; nothing was written",
        )


def _result(head: Head, *, blobs: int, written: int, changed: bool) -> Ingested:
    return Ingested(
        changed=changed,
        bundle=head.manifest.name,
        number=head.manifest.number,
        digest=str(head.verified.digest),
        blobs=blobs,
        bytes=written,
    )


def _drain(stream: BinaryIO) -> None:
    """Read a pipe to its end, so that the program before us does not die of SIGPIPE."""
    if not stream.seekable():
        while stream.read(CHUNK):
            pass


def _clear(store: Path) -> None:
    """Remove what a run that was cut left behind; we hold the lock, so it is nobody's."""
    for name in ("incoming", "blobs", "blobs/sha256", "metadata"):
        if (store / name).is_symlink():
            raise RefusedError(
                f"{store / name}: a link, not a folder", hint="look who made it, and remove it"
            )
    incoming = store / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    (store / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    for path in incoming.iterdir():
        path.unlink()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
