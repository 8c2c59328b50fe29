"""Read images from this machine: an OCI image layout (folder or tar) or a docker archive.

A docker archive (`docker save`, `skopeo copy ... docker-archive:`) has no image manifest, and names
its layers by the digest of their uncompressed content. This module makes a manifest with the same
configuration, so the image keeps its id. It does not recompress layers, because two versions of a
compressor would give two different bundles.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from keystone.bundle import media
from keystone.bundle.formats import compressed, foreign_tar
from keystone.bundle.formats.pieces import Reader, UnreadableError, of_file
from keystone.bundle.media import Descriptor
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, WrongContentError
from keystone.packager import foreign_json
from keystone.packager.charts import image_names
from keystone.packager.charts.image_names import HUB
from keystone.packager.sources import oci
from keystone.packager.sources.referrers import subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.packager.sources.oci import Reference

CHUNK = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
CONFIGURATION = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
GZIP = b"\x1f\x8b"
MAX_LINKS = 4
LAYOUT = "copy the image again: skopeo copy docker://... oci:folder:tag"
ARCHIVE = "save the image again: docker save, skopeo copy ... docker-archive:file:name"


@dataclass(frozen=True)
class Span:
    """Position of a member's data in an archive, in bytes. link: the member with the data."""

    offset: int
    size: int
    link: str = ""


class Archives:
    """Reads `archive:<path>#<member>` sources of a lock; it lists each tar file once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, Span]] = {}

    def read(self, folder: Path, rest: str) -> Iterator[bytes]:
        """Return a member's bytes. Raises ConfigurationError when the archive lacks it."""
        name, _, member = rest.rpartition("#")
        path = folder / name
        if path not in self._listed:
            self._listed[path] = spans(path)
        return _read(path, find(path, self._listed[path], member))


def spans(path: Path) -> dict[str, Span]:
    """Find each member of an uncompressed tar. Raises ConfigurationError for anything else."""
    found: dict[str, Span] = {}
    try:
        with path.open("rb") as file:
            for member in foreign_tar.members(of_file(file)):
                name = str(PurePosixPath(member.name))
                if member.kind == "symbolic link":
                    target = os.path.normpath(PurePosixPath(name).parent / member.link)
                    found[name] = Span(0, 0, target)
                elif member.kind == "hard link":
                    found[name] = Span(0, 0, str(PurePosixPath(member.link)))
                elif member.kind == "file":
                    found[name] = Span(member.offset, member.size)
    except (OSError, UnreadableError) as error:
        raise ConfigurationError(
            f"{path}: not an uncompressed tar: {error}", hint="gunzip it first"
        ) from error
    return found


def find(path: Path, listed: dict[str, Span], member: str) -> Span:
    """Find a member, following links inside the archive. Raises ConfigurationError."""
    name = member
    for _ in range(MAX_LINKS):
        span = listed.get(name)
        if span is None:
            break
        if not span.link:
            return span
        name = span.link
    raise ConfigurationError(f"{path}: has no member {member!r}", hint="check that it is complete")


def _read(path: Path, span: Span) -> Iterator[bytes]:
    left = span.size
    with path.open("rb", buffering=0) as file:
        file.seek(span.offset)
        while left and (chunk := file.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


@dataclass(frozen=True)
class Place:
    """A folder or a tar file. base: the lock's folder; sources are relative to it."""

    path: Path
    base: Path

    @cached_property
    def listed(self) -> dict[str, Span] | None:
        """The members of a tar; None for a folder."""
        return None if self.path.is_dir() else spans(self.path)

    def has(self, name: str) -> bool:
        """Whether it contains a file with this name."""
        return (self.path / name).is_file() if self.listed is None else name in self.listed

    def chunks(self, name: str) -> Iterator[bytes]:
        """Return a file's bytes. Raises ConfigurationError."""
        if self.listed is None:
            size = (self.path / name).stat().st_size
            return _read(self.path / name, Span(0, size))
        return _read(self.path, find(self.path, self.listed, name))

    def read(self, name: str, limit: int) -> bytes:
        """Read a small file. Raises WrongContentError when it is larger than `limit` bytes."""
        data = bytearray()
        for chunk in self.chunks(name):
            data += chunk
            if len(data) > limit:
                raise WrongContentError(f"{self.path}: {name}: larger than {limit} bytes")
        return bytes(data)

    def source(self, name: str) -> str:
        """Return the file's source, as in a lock."""
        path = os.path.relpath(self.path.resolve(), self.base.resolve())
        return f"local:{path}/{name}" if self.listed is None else f"archive:{path}#{name}"


def open_layout(path: Path, base: Path, reference: Reference) -> Layout:
    """Open a layout or a docker archive as a repository. Raises ConfigurationError."""
    if not path.exists():
        raise ConfigurationError(f"{path}: no such file or folder")
    place = Place(path, base)
    if place.has("oci-layout") and place.has("index.json"):
        return Layout(place, reference)
    if place.has("manifest.json"):
        return DockerArchive(place, reference)
    raise ConfigurationError(
        f"{path}: neither an OCI image layout nor a docker archive",
        hint="make one: skopeo copy docker://... oci:folder:tag",
    )


@dataclass(frozen=True)
class Layout:
    """An OCI image layout (image-spec v1.1, image-layout.md) as a repository."""

    place: Place
    reference: Reference

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """The descriptors in index.json."""
        data = self.place.read("index.json", media.MAX_OCI_MANIFEST)
        try:
            found = foreign_json.loads(data)["manifests"]
            for entry in found:
                Digest.parse(entry["digest"])
                _names(entry)
        except foreign_json.WRONG as error:
            raise _unreadable(self.place, "index.json", error, LAYOUT) from error
        return list(found)

    def manifest(self, name: str) -> bytes | None:
        """Read a manifest by digest, by tag, or the only one if it has no name."""
        if name.startswith("sha256:"):
            digest = Digest.parse(name)
        else:
            chosen = self._choose(name)
            if chosen is None:
                return None
            digest = Digest.parse(chosen["digest"])
        path = f"blobs/sha256/{digest.hex}"
        if not self.place.has(path):
            return None
        return self._checked(digest, self.place.read(path, media.MAX_OCI_MANIFEST))

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """Return the entries of index.json whose manifest has this subject; None without any."""
        found = []
        for entry in self.entries:
            if entry.get("mediaType") not in media.ACCEPTED:
                continue  # index.json may list blobs of any type
            digest = str(entry["digest"])
            data = self.manifest(digest)
            if data is None:
                continue
            parsed, root = oci.parsed_manifest(f"{self.place.path}: {digest}", data)
            if subject_of(foreign_json.loads(data)) == str(subject):
                kind = parsed.media_type
                found.append({"mediaType": kind, "digest": digest, "size": root.size})
        return found or None

    def blob(self, blob: Descriptor, limit: int) -> bytes:
        """Read a small blob and verify its digest."""
        return self._checked(blob.digest, self.place.read(f"blobs/sha256/{blob.digest.hex}", limit))

    def source(self, blob: Descriptor) -> str:
        """Return a blob's source: a file, or a member of an archive."""
        name = f"blobs/sha256/{blob.digest.hex}"
        if not self.place.has(name):
            raise ConfigurationError(
                f"{self.place.path}: lacks blob {blob.digest} of {self.reference}",
                hint="copy the image with all its platforms: skopeo copy --all",
            )
        return self.place.source(name)

    def _choose(self, tag: str) -> dict[str, Any] | None:
        wanted = {tag, *familiar(self.reference)}
        named = [entry for entry in self.entries if wanted & _names(entry)]
        if not named and tag == self.reference.tag:
            others = sorted(set().union(*map(_names, self.entries)))
            if others:
                raise _other_names(self.place, self.reference, others)
            if len(self.entries) == 1:
                named = self.entries
        if len({entry["digest"] for entry in named}) > 1:
            raise ConfigurationError(f"{self.place.path}: several images have the name {tag}")
        return named[0] if named else None

    def _checked(self, digest: Digest, data: bytes) -> bytes:
        found = hashlib.sha256(data).hexdigest()
        if found != digest.hex:
            raise WrongContentError(
                f"{self.place.path}: the content of blob {digest} has digest sha256:{found}"
            )
        return data


@dataclass(frozen=True)
class DockerArchive(Layout):
    """A docker archive (`docker save`), as a repository with one image."""

    def manifest(self, name: str) -> bytes | None:
        """Return the generated manifest, by tag or by its digest."""
        data = self.made[0]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return data if name in {self.reference.tag, digest} else None

    def referrers(self, subject: Digest) -> list[dict[str, Any]] | None:
        """Return None: docker archives have no referrers."""
        return None

    def blob(self, blob: Descriptor, limit: int) -> bytes:
        """Read a small blob, such as the configuration, and verify its digest."""
        return self._checked(blob.digest, self.place.read(self.made[1][blob.digest], limit))

    def source(self, blob: Descriptor) -> str:
        """Return a blob's source: a member, or inline for the generated manifest."""
        if blob.digest in self.made[1]:
            return self.place.source(self.made[1][blob.digest])
        return f"inline:{self.made[0].decode()}"

    @cached_property
    def made(self) -> tuple[bytes, dict[Digest, str]]:
        """The generated manifest, and the member name of each blob."""
        config_name, layer_names = self._entry()
        data = self.place.read(config_name, media.MAX_OCI_MANIFEST)
        try:
            diff_ids = foreign_json.loads(data)["rootfs"]["diff_ids"]
            expected = [Digest.parse(text) for text in diff_ids]
        except foreign_json.WRONG as error:
            raise _unreadable(self.place, config_name, error, ARCHIVE) from error
        if len(expected) != len(layer_names):
            counts = f"{len(layer_names)} layers in manifest.json, {len(expected)} in {config_name}"
            raise WrongContentError(f"{self.place.path}: {counts}")
        config = Descriptor(CONFIGURATION, Digest(hashlib.sha256(data).hexdigest()), len(data))
        members = {config.digest: config_name}
        layers = []
        for name, diff_id in zip(layer_names, expected, strict=True):
            layer = self._layer(name, diff_id)
            members[layer.digest] = name
            layers.append(layer)
        document = {
            "schemaVersion": 2,
            "mediaType": media.MANIFEST,
            "config": _document(config),
            "layers": [_document(layer) for layer in layers],
        }
        return json.dumps(document, sort_keys=True).encode(), members

    def _entry(self) -> tuple[str, list[str]]:
        """Return the member names of the image's configuration and layers."""
        try:
            listed = foreign_json.loads(self.place.read("manifest.json", media.MAX_OCI_MANIFEST))
            names = familiar(self.reference)
            named = [entry for entry in listed if names & set(entry.get("RepoTags") or ())]
            tags = sorted(tag for entry in listed for tag in entry.get("RepoTags") or ())
            chosen = named or (listed if len(listed) == 1 and not tags else [])
            if len(chosen) != 1:
                raise _other_names(self.place, self.reference, tags)
            return str(chosen[0]["Config"]), [str(name) for name in chosen[0]["Layers"]]
        except foreign_json.WRONG as error:
            raise _unreadable(self.place, "manifest.json", error, ARCHIVE) from error

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        """Hash a layer as stored and uncompressed; the configuration must name the latter."""
        packed, size, head = hashlib.sha256(), 0, b""
        for chunk in self.place.chunks(name):
            head = head or chunk[:2]
            packed.update(chunk)
            size += len(chunk)
        digest = Digest(packed.hexdigest())
        zipped = head == GZIP
        found = self._unpacked(name) if zipped else digest
        if found != diff_id:
            raise WrongContentError(
                f"{self.place.path}: {name}: its uncompressed content has digest {found}, "
                f"and the configuration names {diff_id}"
            )
        return Descriptor(f"{LAYER}+gzip" if zipped else LAYER, digest, size)

    def _unpacked(self, name: str) -> Digest:
        seen = hashlib.sha256()
        try:
            for piece in compressed.gunzipped(Reader(self.place.chunks(name))):
                seen.update(piece)
        except (OSError, UnreadableError) as error:
            raise WrongContentError(f"{self.place.path}: {name}: {error}") from error
        return Digest(seen.hexdigest())


def _names(entry: dict[str, Any]) -> set[str]:
    """Return the names of an entry in index.json: a tag, or a whole reference."""
    notes = entry.get("annotations") or {}
    return {str(notes[key]) for key in (REF_NAME, CONTAINERD_NAME) if notes.get(key)}


def _unreadable(place: Place, name: str, error: Exception, hint: str) -> ConfigurationError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ConfigurationError(f"{place.path}: {name} cannot be read: {reason}", hint=hint)


def _other_names(place: Place, reference: Reference, names: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{place.path}: contains no image {reference}",
        hint=f"names in it: {', '.join(names) or 'none'}; set ref to one of them, or name the "
        "image so before saving it (docker tag, skopeo copy)",
    )


def familiar(reference: Reference) -> set[str]:
    """Return the names that docker save can use for an image: it shortens those of Docker Hub."""
    last = str(reference).removeprefix(reference.name)
    names = image_names.spellings(reference.name)
    return {f"{name}{last}" for each in names for name in (each, each.removeprefix(f"{HUB}/"))}


def _document(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}
