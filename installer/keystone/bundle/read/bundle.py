"""Open a bundle and verify its metadata, or every byte."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle import manifest as contents_file
from keystone.bundle import publishable
from keystone.bundle.format import COPY_AGAIN, DELTA, MANIFEST, SCRATCH, member_name
from keystone.bundle.formats import deb822, hashing, tar
from keystone.bundle.read import content as layout
from keystone.bundle.read import delta_description, stream
from keystone.bundle.read.blobs import MAX_READ, InFile
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.read.stream import TarStream
from keystone.bundle.trust import canonical, verify
from keystone.bundle.trust.tuf_shape import ASK
from keystone.errors import DamagedBundleError, UntrustedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.bundle.model import Digest, Item, Manifest


@dataclass(frozen=True)
class Head:
    """The signed head of a bundle: metadata and table of contents, which precede the blobs."""

    verified: verify.Verified
    manifest: Manifest
    manifest_bytes: bytes


def read_head(archive: TarStream, pin: verify.Pin) -> Head:
    """Verify the metadata, then read the table of contents.

    Raises UntrustedBundleError or DamagedBundleError.
    """
    verified = verify_files(stream.read_metadata(archive), pin)
    if archive.time != int(verified.created.timestamp()):
        raise DamagedBundleError(
            "the modification time of its members differs from the signed metadata",
            hint=COPY_AGAIN,
            code="KSB-15",
        )
    data = stream.read_manifest(archive, verified.targets)
    return Head(verified, contents(data, verified), data)


def verify_files(files: Mapping[str, bytes], pin: verify.Pin) -> verify.Verified:
    """Verify metadata files and their canonical encoding. Raises UntrustedBundleError."""
    verified = verify.verify(files, pin)
    canonical.require(verified.files)
    return verified


def contents(data: bytes, verified: verify.Verified) -> Manifest:
    """Parse the table of contents of this metadata from its checked bytes.

    Raises UntrustedBundleError (KSB-06) for another number, or DamagedBundleError.
    """
    manifest = contents_file.load(data)
    if manifest.number != verified.number:
        raise UntrustedBundleError(
            f"{MANIFEST} has number {manifest.number}, but the signed metadata has number "
            f"{verified.number}",
            hint=ASK,
            code="KSB-06",
        )
    return manifest


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in a file or on a block device.

    offsets: start of each member's data in bytes; empty when only the metadata was read.
    """

    path: Path
    manifest: Manifest
    verified: verify.Verified
    offsets: Mapping[str, int]

    @property
    def digest(self) -> str:
        """The digest of the signed list (targets.json), which names the bundle ("sha256:...")."""
        return str(self.verified.digest)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the trust root in hex, as operators type it."""
        return self.verified.fingerprint

    @property
    def is_delta(self) -> bool:
        """Whether it leaves out blobs that its receiver has."""
        return DELTA in self.verified.targets

    @property
    def was_read(self) -> bool:
        """Whether every byte was verified, not only the signed head."""
        return bool(self.offsets)

    def require_full(self) -> None:
        """Raise DamagedBundleError (KSB-31) for a delta, which lacks the blobs it leaves out."""
        if self.is_delta:
            raise DamagedBundleError(
                f"{self.path}: this is a delta, which leaves out blobs that its receiver has; "
                "this command needs a full bundle",
                hint="use the full bundle; or bring the delta into the store that it was made "
                "for: keystone-install store ingest",
                code="KSB-31",
            )

    def pin(self) -> None:
        """Pin this bundle's root on this host, and refuse older bundles from now on."""
        verify.remember(self.verified)

    @contextmanager
    def archive(self) -> Iterator[IO[bytes]]:
        """Open the whole bundle, to send it to another host's store."""
        with self.path.open("rb") as file:
            yield file

    @contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        """Copy a blob to a temporary file and open it (it can be a process's standard input).

        The copy is hashed again, because a stick can be swapped after the bundle was verified.
        Raises DamagedBundleError (KSB-30) when it is not what was signed.
        """
        with tempfile.TemporaryFile(dir=SCRATCH) as copy:
            self._copy(digest, copy)
            copy.seek(0)
            yield copy

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """Copy a member to a temporary file, hash it again as `open` does, and open it."""
        with tempfile.TemporaryFile(dir=SCRATCH) as copy:
            self._copy_member(name, copy)
            copy.seek(0)
            yield copy

    @contextmanager
    def seed_archive(self, kernel: str) -> Iterator[IO[bytes]]:
        """A plain tar of a flat apt repository: the debs needed before the store, and Packages.

        kernel: `uname -r` of the host; modules for other kernels are left out.
        """
        items = seed_items(self.manifest, kernel)
        with tempfile.TemporaryFile(dir=SCRATCH) as archive:
            for item in items:
                archive.write(tar.header(tar.Member(item.labels["filename"], item.size)))
                self._copy(item.digest, archive)
                archive.write(bytes(tar.padded(item.size) - item.size))
            index = self._packages(items)
            archive.write(tar.header(tar.Member("Packages", len(index))))
            archive.write(index.ljust(tar.padded(len(index)), b"\0"))
            archive.write(bytes(2 * tar.BLOCK))
            archive.seek(0)
            yield archive

    def _packages(self, items: tuple[Item, ...]) -> bytes:
        """The stanzas of these debs, from the bundle's package lists."""
        names = {item.labels["filename"] for item in items}
        kept = []
        for listed in self.manifest.of_kind("packages"):
            with self.open(listed.digest) as file:
                stanzas = deb822.paragraphs(file.read().decode())
            kept += [stanza for stanza in stanzas if deb822.filename(stanza) in names]
        return ("\n\n".join(kept) + "\n").encode()

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        name = member_name(digest, self.manifest)
        self._copy_member(name, sink)

    def _copy_member(self, name: str, sink: IO[bytes]) -> None:
        target = self.verified.targets.get(name)
        owner = self.manifest.owner(target.digest) if target else "not signed"
        if target is None or name not in self.offsets:
            raise DamagedBundleError(f"{name} ({owner}): not in the bundle", code="KSB-19")
        seen = hashlib.sha256()
        with open_medium(self.path) as medium:
            for chunk in medium.chunks(self.offsets[name], target.size):
                seen.update(chunk)
                sink.write(chunk)
        if seen.hexdigest() != target.digest.hex:
            raise DamagedBundleError(
                f"{name} ({owner}): changed on {self.path} after verification",
                hint="check the medium; do not swap it during an installation",
                code="KSB-30",
            )


def seed_items(manifest: Manifest, kernel: str) -> tuple[Item, ...]:
    """The debs of group "seed" that a host with this kernel needs."""
    return tuple(
        item
        for item in manifest.of_kind("deb")
        if "seed" in item.labels.get("groups", "").split(",")
        and item.labels.get("kernel", kernel) == kernel
    )


def open_verified(
    path: Path,
    *,
    pinned_root: bytes | None = None,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = verify.TRUST,
    deltas: bool = False,
) -> Bundle:
    """Verify the metadata and every byte in one pass.

    pinned_root: replaces the root that this host pinned in `directory`. fingerprint: SHA-256 of a
    root, in hex. confirm: asked about the fingerprint, only when no root is pinned and no
    fingerprint is given. deltas: accept deltas too; by default only full bundles are accepted.
    Raises UntrustedBundleError (exit code 4) or DamagedBundleError (5).
    """
    pin = _pin(directory, pinned_root, fingerprint, confirm)
    with open_medium(path) as medium:
        archive = TarStream(medium.stream)
        head = read_head(archive, pin)
        bundle = Bundle(path, head.manifest, head.verified, {})
        if not deltas:
            bundle.require_full()
        offsets = _walk(archive, head, exact=medium.exact)
        handle = medium.stream.fileno()
        _hash_all(handle, head, offsets)
        bundle = replace(bundle, offsets=offsets)
        if bundle.is_delta:
            with bundle.member(DELTA) as file:
                described = file.read(delta_description.MAX_DESCRIPTION + 1)
                description = delta_description.load(described)
            delta_description.check(description, head.verified.targets, head.manifest)
        else:
            _check_content(handle, head, offsets)
        medium.require_unchanged()
    return bundle


def _walk(archive: TarStream, head: Head, *, exact: bool) -> dict[str, int]:
    """Check headers, order and gaps of all members; return the data offset of each, in bytes."""
    offsets = {}
    for content in stream.contents(archive, head.verified.targets, head.manifest, exact=exact):
        offsets[content.name] = archive.position
        content.skip()
    return offsets


def _hash_all(handle: int, head: Head, offsets: Mapping[str, int]) -> None:
    """Hash every member, on all cores. Raises DamagedBundleError for a wrong digest."""
    targets = head.verified.targets
    pieces = {name: (offset, targets[name].size) for name, offset in offsets.items()}
    total = sum(size for _, size in pieces.values())
    with log.progress("verify the bundle", total) as bar:
        for name, digest in hashing.digests(handle, pieces, bar.advance):
            target = targets[name]
            stream.require_digest(digest, name, target, head.manifest.owner(target.digest))


def _check_content(handle: int, head: Head, offsets: Mapping[str, int]) -> None:
    targets = head.verified.targets
    places = {targets[name].digest: (at, targets[name].size) for name, at in offsets.items()}
    blobs = InFile(handle, places)

    def read(name: str) -> bytes:
        return blobs.read(targets[name].digest, 0, MAX_READ)

    layout.check(head.manifest, targets, read, blobs)
    publishable.check(head.manifest, blobs, head.verified.created)


def open_metadata(
    path: Path,
    *,
    pinned_root: bytes | None = None,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = verify.TRUST,
) -> Bundle:
    """Verify only the metadata: sufficient to inspect a bundle, not to install from it."""
    with open_medium(path) as medium:
        head = read_head(
            TarStream(medium.stream), _pin(directory, pinned_root, fingerprint, confirm)
        )
    return Bundle(path, head.manifest, head.verified, {})


def _pin(
    directory: Path,
    root: bytes | None,
    fingerprint: str | None,
    confirm: Callable[[str], bool] | None,
) -> verify.Pin:
    found = verify.host_pin(directory, fingerprint=fingerprint, confirm=confirm)
    return verify.Pin(root or found.root, fingerprint, confirm, found.accepted)
