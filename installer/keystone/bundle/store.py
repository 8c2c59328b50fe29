"""The content store of a host: an OCI image layout whose blobs were hashed before they got a name.

`ingest` reads a bundle once, from a file, a device or a pipe: read, hash, write, sync, rename.
A blob that has its final name was whole when it got it, so a run that was cut goes on.
`metadata/targets.json` is written last: while it is there, what it lists is there too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO

from keystone import log
from keystone.bundle import delta, delta_reader, reader, trust
from keystone.bundle import manifest as contents_file
from keystone.bundle.disk import sync_directory, write_chunks, write_file
from keystone.bundle.model import Digest, Manifest
from keystone.bundle.opened import INSTALLER_MODE, Head, read_head
from keystone.bundle.reader import Content, Members, Target, TarStream
from keystone.errors import KeystoneError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOSE = ("oci-layout", "index.json")
"""Files that keep their name in the store; everything else is a blob there."""


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


def ingest(
    stream: BinaryIO, store: Path, pin: trust.Pin, *, exact: bool = True
) -> tuple[Ingested, trust.Verified]:
    """Bring a bundle into the store in one pass; nothing is kept of what was not signed.

    exact: the stream ends where the archive does. Raises UntrustedBundleError before anything is
    written, DamagedBundleError for content (whole blobs that came before it stay).
    """
    carried = TarStream(stream)
    archive: Members = carried
    head = read_head(carried, pin)
    if delta.is_delta(head.verified.targets):
        archive, head = delta_reader.over(carried, head, store, pin)
    digest = str(head.verified.digest)
    with _locked(store):
        before = status(store)
        if before.complete and before.digest == digest:
            _drain(stream)
            return _result(head, blobs=0, written=0, changed=False), head.verified
        _require_space(store, head)
        mark(store, digest, complete=False)
        incoming = store / "incoming"
        _clear(incoming)
        written = blobs = 0
        total = sum(target.size for target in head.verified.targets.values())
        with log.progress("bring the bundle into the store", total) as bar:
            for content in reader.contents(
                archive, head.verified.targets, head.manifest, exact=exact
            ):
                if _take(content, store, incoming):
                    written += content.target.size
                    blobs += 1
                bar.advance(content.target.size)
        sync_directory(store / "blobs/sha256")
        for name in LOOSE:
            (incoming / name).replace(store / name)
        _write_metadata(store / "metadata", head)
        incoming.rmdir()
        sync_directory(store)
    return _result(head, blobs=blobs, written=written, changed=True), head.verified


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
    return contents_file.load((store / "metadata" / reader.MANIFEST).read_bytes())


def stored_targets(data: bytes) -> dict[str, Target]:
    """The signed list, from a targets.json that was verified when it came."""
    entries = json.loads(data)["signed"]["targets"]
    return {
        name: Target(entry["length"], Digest(entry["hashes"]["sha256"]))
        for name, entry in entries.items()
    }


def mark(store: Path, digest: str, *, complete: bool) -> None:
    """Write state.json, which the facts probe reads: which bundle, and whether it is served."""
    document = {"bundle": digest, "complete": complete}
    write_file(store / "state.json", (json.dumps(document, sort_keys=True) + "\n").encode())


def as_json(value: Ingested | Status) -> dict[str, object]:
    """For --json."""
    return asdict(value)


def blob_path(store: Path, digest: Digest) -> Path:
    """Where a blob lies in a store."""
    return store / "blobs/sha256" / digest.hex


def _take(content: Content, store: Path, incoming: Path) -> bool:
    """Keep one member; False when the store has it whole already."""
    if content.name in LOOSE:
        write_chunks(incoming / content.name, content.chunks, incoming / f"{content.name}.part")
        return True
    final = blob_path(store, content.target.digest)
    if _has(final, content.target.size):
        content.skip()
        return False
    mode = INSTALLER_MODE if content.name == reader.INSTALLER else 0o644
    write_chunks(final, content.chunks, incoming / final.name, mode)
    return True


def _there(store: Path, name: str, target: Target) -> bool:
    if name == reader.MANIFEST:
        return _has(store / "metadata" / name, target.size)
    if name in LOOSE:
        path = store / name
        return path.is_file() and _sha256(path.read_bytes()) == target.digest.hex
    return _has(blob_path(store, target.digest), target.size)


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _write_metadata(directory: Path, head: Head) -> None:
    directory.mkdir(exist_ok=True)
    write_file(directory / reader.MANIFEST, head.manifest_bytes)
    for name, data in head.files.items():
        write_file(directory / name, data)


def _require_space(store: Path, head: Head) -> None:
    needed = sum(
        target.size for name, target in head.verified.targets.items()
        if not _there(store, name, target)
    )  # fmt: skip
    found = os.statvfs(store)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise KeystoneError(
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
        while stream.read(reader.CHUNK):
            pass


def _clear(incoming: Path) -> None:
    """Remove what a run that was cut left behind; we hold the lock, so it is nobody's."""
    incoming.mkdir(parents=True, exist_ok=True)
    (incoming.parent / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    for path in incoming.iterdir():
        path.unlink()


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """One writer at a time; the kernel drops the lock with the process."""
    store.mkdir(parents=True, exist_ok=True)
    handle = os.open(store / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"{store}: another keystone-install is writing here", hint="wait for it to end"
            ) from error
        yield
    finally:
        os.close(handle)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
