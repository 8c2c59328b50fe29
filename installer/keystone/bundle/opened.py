"""A bundle that was opened: its metadata verified, or its every byte."""

from __future__ import annotations

import hashlib
import re
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from keystone import log
from keystone.bundle import manifest as contents_file
from keystone.bundle import reader, tar, trust
from keystone.bundle.reader import TarStream
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.bundle.model import Digest, Item, Manifest

SCRATCH = Path("/var/tmp")  # noqa: S108 on disk, and only nameless files are made there
INSTALLER_MODE = 0o755


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
    data = reader.read_manifest(archive, verified.targets)
    return Head(files, verified, contents_file.load(data), data)


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
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """A member by its name, as a file of its own, hashed again as `open` does."""
        with tempfile.TemporaryFile(dir=SCRATCH) as copy:
            self._copy_member(name, copy)
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
        self._copy_member(name, sink)

    def _copy_member(self, name: str, sink: IO[bytes]) -> None:
        target = self.verified.targets.get(name)
        owner = self.manifest.owner(target.digest) if target else "nothing signed"
        if target is None or name not in self.offsets:
            raise DamagedBundleError(f"{name} ({owner}) is not inside")
        seen = hashlib.sha256()
        with self.path.open("rb") as source:
            source.seek(self.offsets[name])
            left = target.size
            while left and (chunk := source.read(min(left, reader.CHUNK))):
                seen.update(chunk)
                sink.write(chunk)
                left -= len(chunk)
        if seen.hexdigest() != target.digest.hex:
            raise DamagedBundleError(
                f"{name} ({owner}): changed on {self.path} since verified",
                hint="look at the medium; do not swap it during an installation",
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
    with _open(path) as stream:
        archive = TarStream(stream)
        head = read_head(archive, pin)
        offsets: dict[str, int] = {}
        total = sum(target.size for target in head.verified.targets.values())
        with log.progress("verify the bundle", total) as bar:
            for content in reader.contents(
                archive, head.verified.targets, head.manifest, exact=not is_device(path)
            ):
                offsets[content.name] = archive.position
                for chunk in content.chunks:
                    bar.advance(len(chunk))
    return Bundle(path, head.manifest, head.verified, offsets)


def open_metadata(
    path: Path,
    *,
    pinned_root: bytes | None = None,
    fingerprint: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    directory: Path = trust.TRUST,
) -> Bundle:
    """Verify the metadata only: enough to look at, not to install from."""
    with _open(path) as stream:
        head = read_head(TarStream(stream), _pin(directory, pinned_root, fingerprint, confirm))
    return Bundle(path, head.manifest, head.verified, {})


def is_device(path: Path) -> bool:
    """Whether the path is a block device: it does not end where the archive does."""
    return stat.S_ISBLK(path.stat().st_mode)


def _pin(
    directory: Path,
    root: bytes | None,
    fingerprint: str | None,
    confirm: Callable[[str], bool] | None,
) -> trust.Pin:
    found = trust.host_pin(directory, fingerprint=fingerprint, confirm=confirm)
    return trust.Pin(root or found.root, fingerprint, confirm, found.accepted)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise DamagedBundleError(
            f"{path}: cannot be opened: {error.strerror}", hint="give the bundle's file or device"
        ) from error
    with stream:
        yield stream
