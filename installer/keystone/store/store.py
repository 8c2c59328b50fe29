"""The content store of a host: an OCI image layout whose blobs are hashed before they get a name.

`ingest` reads a bundle once, from a file, a device or a pipe: read, hash, write, sync, rename.
A blob with its final name is complete, so a run after an interruption writes only the rest.
`metadata/targets.json` is written last: when it exists, all blobs that it lists exist too.
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
from keystone.files import refusal, settle, sync_directory, write_file
from keystone.lockfile import only_one
from keystone.store.intake import Arrival, Intake

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self

LOCK = ".lock"
"""File in a store, held by the one process that changes it: a killed run may leave one behind."""


@dataclass(frozen=True)
class Ingested:
    """Result of `ingest`. blobs, bytes: what this run wrote, without existing blobs."""

    changed: bool
    bundle: str
    number: int
    digest: str
    blobs: int
    bytes: int


@dataclass(frozen=True)
class Status:
    """Content of a store. complete: every blob of the bundle exists with its signed size."""

    bundle: str
    number: int
    digest: str
    complete: bool
    blobs: int
    bytes: int
    missing: int


class Writer:
    """The only way to write to a store: requires verified metadata, and writes only what it lists.

    A context manager: `take` each member, then `commit`. Reuses complete blobs of an interrupted
    run and removes its temporary files.
    """

    def __init__(self, store: Path, verified: verify.Verified) -> None:
        if not isinstance(verified, verify.Verified):
            raise TypeError("a store can only be written from a verified bundle")
        self._store, self._verified = store, verified
        self._incoming = store / "incoming"
        _clear(store)
        self._intake = Intake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._intake.close()
        with suppress(OSError):  # complete blobs already have their final names
            for left in self._incoming.iterdir():
                left.unlink()

    def take(
        self,
        name: str,
        chunks: Iterable[bytes | memoryview],
        owner: str = "the bundle",
        *,
        parallel: bool = False,
    ) -> None:
        """Write one member; it gets its final name after all its bytes were hashed and synced.

        owner: the item it belongs to, for messages. parallel: another thread may read `chunks`.
        Raises DamagedBundleError for a name that is not signed, and for bytes that differ from the
        signed ones: now, at a later `take`, or at `settle`.
        """
        target = self._verified.targets.get(name)
        if target is None:
            raise DamagedBundleError(
                f"{name}: not in the signed list", hint=COPY_AGAIN, code="KSB-19"
            )
        loose = name == MANIFEST or name in LOOSE
        final = self._incoming / name if loose else blob_path(self._store, target.digest)
        mode = INSTALLER_MODE if name == INSTALLER else 0o644
        temporary = self._incoming / f"{name.replace('/', '-')}.part"
        arrival = Arrival(name, target, owner, temporary, final, mode)
        self._intake.take(chunks, arrival, parallel=parallel)

    def has(self, name: str) -> bool:
        """Whether the store already has this complete blob."""
        target = self._verified.targets.get(name)
        if target is None or name == MANIFEST or name in LOOSE:
            return False
        return is_there(blob_path(self._store, target.digest), target.size)

    def settle(self) -> None:
        """Wait until all members have their final names. Raises as `take` does."""
        self._intake.settle()

    def commit(self, manifest: Manifest) -> None:
        """Check the content, then give the bundle's own files their final names.

        `metadata/targets.json` is last, so everything that it lists exists and is checked.
        """
        self.settle()
        sync_directory(self._store / "blobs/sha256")
        blobs = InFolder(self._store / "blobs/sha256")
        layout.check(manifest, self._verified.targets, self._read, blobs)
        publishable.check(manifest, blobs, self._verified.created)
        for name in LOOSE:
            settle(self._incoming / name, self._store / name, synced=True)
        metadata = self._store / "metadata"
        metadata.mkdir(exist_ok=True)
        settle(self._incoming / MANIFEST, metadata / MANIFEST, synced=True)
        for name, data in self._verified.files.items():
            write_file(metadata / name, data)
        self._incoming.rmdir()
        sync_directory(self._store)

    def _read(self, name: str) -> bytes:
        return (self._incoming / name).read_bytes()


def ingest(
    stream: BinaryIO, store: Path, pin: verify.Pin, *, exact: bool = True
) -> tuple[Ingested, verify.Verified]:
    """Bring a bundle into the store in one pass; only signed content is kept.

    A delta brings in the full bundle that it makes together with the store; that bundle's metadata
    is verified like the delta's own. exact: nothing may follow the archive in the stream.
    Raises UntrustedBundleError before anything is written, DamagedBundleError for wrong content
    (complete blobs before it stay), HostError when the store cannot be written.
    """
    carried = TarStream(stream)
    archive: Members = carried
    head = read_head(carried, pin)
    try:
        with only_one(store / LOCK, str(store)):
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
    """Write every member that is missing. Returns the number of blobs written, and their bytes."""
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
                chunks = content.detach()
                writer.take(content.name, chunks, content.owner, parallel=content.parallel)
                written += content.target.size
                blobs += 1
            bar.advance(content.target.size)
        writer.commit(head.manifest)
    return blobs, written


def status(store: Path) -> Status:
    """Content of the store by names and sizes, without hashing: only hashed blobs get a name."""
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
    """Write state.json, which the facts probe reads. digest: of the bundle.

    complete: the store has all of the bundle and publishes it.
    """
    document = {"bundle": digest, "complete": complete}
    write_file(store / "state.json", (json.dumps(document, sort_keys=True) + "\n").encode())


def marked(store: Path) -> str:
    """The digest of the complete, published bundle in state.json ("sha256:...").

    "" when there is none, or when the file is damaged: the caller then relies on nothing.
    """
    try:
        document = strict_json.loads((store / "state.json").read_bytes())
        return str(document["bundle"]) if document["complete"] is True else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def holds(store: Path, verified: verify.Verified) -> bool:
    """Whether the store has all of this bundle: the same signed list, each blob with its full size.

    Does not hash the blobs again: only hashed blobs get a name.
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


def place(store: Path, name: str, target: Target) -> Path:
    """Return the path in a store of a member of its bundle."""
    if name == MANIFEST:
        return store / "metadata" / name
    return store / name if name in LOOSE else blob_path(store, target.digest)


def _there(store: Path, name: str, target: Target) -> bool:
    path = place(store, name, target)
    if name in LOOSE:
        return path.is_file() and _sha256(path.read_bytes()) == target.digest.hex
    return is_there(path, target.size)


def _require_space(store: Path, head: Head) -> None:
    needed = sum(
        target.size for name, target in head.verified.targets.items()
        if not _there(store, name, target)
    )  # fmt: skip
    found = os.statvfs(store)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise HostError(
            f"{store}: needs {log.size(needed)}, only {log.size(free)} are free",
            hint="free some space or use larger disks; nothing was written",
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
    """Read a pipe to its end, so that the program that writes to it does not fail with SIGPIPE."""
    if not stream.seekable():
        while stream.read(CHUNK):
            pass


def _clear(store: Path) -> None:
    """Remove temporary files of an interrupted run. We hold the lock, so nobody else uses them."""
    for name in ("incoming", "blobs", "blobs/sha256", "metadata"):
        if (store / name).is_symlink():
            raise RefusedError(
                f"{store / name}: a link, not a folder",
                hint="find out who created the link, and remove it",
            )
    incoming = store / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    (store / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    for path in incoming.iterdir():
        path.unlink()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
