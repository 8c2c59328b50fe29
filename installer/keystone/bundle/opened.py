"""A bundle that was opened: its metadata verified, or its every byte."""

from __future__ import annotations

import hashlib
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle import hashing, layout, reader, tar, trust
from keystone.bundle import manifest as contents_file
from keystone.bundle.blobs import MAX_READ, InFile
from keystone.bundle.medium import open_bundle
from keystone.bundle.reader import LOOSE, TarStream
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.bundle.model import Digest, Item, Manifest
    from keystone.bundle.reader import Content

SCRATCH = Path("/var/tmp")  # noqa: S108 on disk, and only nameless files are made there


@dataclass(frozen=True)
class Head:
    """The signed head of a bundle: what a reader knows before it reads the first blob."""

    files: Mapping[str, bytes]
    verified: trust.Verified
    manifest: Manifest
    manifest_bytes: bytes


def read_head(archive: TarStream, pin: trust.Pin) -> Head:
    """Verify the metadata, then read the table of contents.

    Raises UntrustedBundleError or DamagedBundleError.
    """
    files = reader.read_metadata(archive)
    verified = trust.verify(files, pin)
    if archive.time != int(verified.created.timestamp()):
        raise DamagedBundleError(
            "its members have another time than the signed metadata",
            hint=reader.COPY_AGAIN,
            code="KSB-15",
        )
    data = reader.read_manifest(archive, verified.targets)
    manifest = contents_file.load(data)
    layout.require_listed(manifest, verified.targets, verified.number)
    return Head(files, verified, manifest, data)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on a file or a block device.

    offsets: where each blob's data starts, in bytes; empty when only the metadata was read.
    """

    path: Path
    manifest: Manifest
    verified: trust.Verified
    offsets: Mapping[str, int]

    @property
    def digest(self) -> str:
        """Of the signed list of everything inside: it names the bundle ("sha256:...")."""
        return str(self.verified.digest)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the trust root, as operators type it."""
        return self.verified.fingerprint

    def pin(self) -> None:
        """Believe this bundle's root on this host from now on, and refuse older bundles."""
        trust.remember(self.verified)

    @contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        """A blob as a file of its own (it can be a process's standard input).

        It is hashed again while it is copied: a stick can be swapped after the bundle was
        verified. Raises DamagedBundleError when it is not what was signed.
        """
        with tempfile.TemporaryFile(dir=SCRATCH) as copy:
            self._copy(digest, copy)
            copy.seek(0)
            yield copy

    @contextmanager
    def seed_archive(self, kernel: str) -> Iterator[IO[bytes]]:
        """A plain tar of a flat apt repository: what cannot wait for the store, and Packages.

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
        """The stanzas of these debs, out of the bundle's own package lists."""
        names = {item.labels["filename"] for item in items}
        kept = []
        for listed in self.manifest.of_kind("packages"):
            with self.open(listed.digest) as file:
                stanzas = file.read().decode().strip().split("\n\n")
            kept += [stanza for stanza in stanzas if _filename(stanza) in names]
        return ("\n\n".join(kept) + "\n").encode()

    def _copy(self, digest: Digest, sink: IO[bytes]) -> None:
        name = member_name(digest, self.manifest)
        target = self.verified.targets.get(name)
        if target is None or name not in self.offsets:
            raise DamagedBundleError(
                f"{name} ({self.manifest.owner(digest)}) is not inside", code="KSB-19"
            )
        seen = hashlib.sha256()
        with self.path.open("rb") as source:
            source.seek(self.offsets[name])
            left = target.size
            while left and (chunk := source.read(min(left, reader.CHUNK))):
                seen.update(chunk)
                sink.write(chunk)
                left -= len(chunk)
        if seen.hexdigest() != digest.hex:
            raise DamagedBundleError(
                f"{name} ({self.manifest.owner(digest)}): changed on {self.path} since verified",
                hint="look at the medium; do not swap it during an installation",
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


def _filename(stanza: str) -> str:
    found = re.search(r"(?m)^Filename: \./(.*)$", stanza)
    return found[1] if found else ""


def member_name(digest: Digest, manifest: Manifest) -> str:
    """Where a blob stands inside a bundle: the installer at the top, the rest as OCI wants it."""
    if any(item.digest == digest for item in manifest.of_kind("installer")):
        return reader.INSTALLER
    return f"blobs/sha256/{digest.hex}"


def open_verified(
    path: Path,
    *,
    pinned_root: bytes | None = None,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = trust.TRUST,
) -> Bundle:
    """Verify the metadata and every byte in one pass.

    pinned_root: instead of the one this host pinned in `directory`. `confirm` is asked for the
    fingerprint only when nothing is pinned and none is given.
    Raises UntrustedBundleError (exit code 4) or DamagedBundleError (5).
    """
    pin = _pin(directory, pinned_root, fingerprint, confirm)
    with open_bundle(path) as (stream, exact):
        archive = TarStream(stream)
        head = read_head(archive, pin)
        targets = head.verified.targets
        found = {
            content.name: content.offset
            for content in _skipped(reader.contents(archive, targets, head.manifest, exact=exact))
        }
        _hash_all(stream.fileno(), head, found)
        _look_inside(stream.fileno(), head, found)
    return Bundle(path, head.manifest, head.verified, found)


def _skipped(contents: Iterator[Content]) -> Iterator[Content]:
    """The order and the headers of all members; their bytes are hashed afterwards, side by side."""
    for content in contents:
        content.skip()
        yield content


def _hash_all(handle: int, head: Head, offsets: Mapping[str, int]) -> None:
    """Hash every member on all cores. Raises DamagedBundleError for the first that is wrong."""
    targets = head.verified.targets
    total = sum(targets[name].size for name in offsets)
    pieces = {name: (offset, targets[name].size) for name, offset in offsets.items()}
    with log.progress("verify the bundle", total) as bar:
        for name, digest in hashing.digests(handle, pieces, bar.advance):
            reader.require_digest(digest, name, targets[name], head.manifest.owner)


def _look_inside(handle: int, head: Head, offsets: Mapping[str, int]) -> None:
    targets = head.verified.targets
    places = {targets[name].digest: (at, targets[name].size) for name, at in offsets.items()}
    blobs = InFile(handle, places)
    files = {}
    for name in LOOSE:
        target = targets.get(name)
        if target is None or target.size > MAX_READ:
            raise DamagedBundleError(f"{name}: not inside", hint=reader.COPY_AGAIN, code="KSB-19")
        files[name] = blobs.read(target.digest, 0, MAX_READ)
    layout.check(head.manifest, files, blobs)


def open_metadata(
    path: Path,
    *,
    pinned_root: bytes | None = None,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = trust.TRUST,
) -> Bundle:
    """Verify the metadata only: enough to look at, not to install from."""
    with open_bundle(path) as (stream, _):
        head = read_head(TarStream(stream), _pin(directory, pinned_root, fingerprint, confirm))
    return Bundle(path, head.manifest, head.verified, {})


def _pin(
    directory: Path,
    root: bytes | None,
    fingerprint: str | None,
    confirm: Callable[[str], bool] | None,
) -> trust.Pin:
    found = trust.host_pin(directory, fingerprint=fingerprint, confirm=confirm)
    return trust.Pin(root or found.root, fingerprint, confirm, found.accepted)
