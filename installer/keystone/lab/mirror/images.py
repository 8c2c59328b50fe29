"""Write OCI images reproducibly: equal inputs give equal bytes (OCI image-spec 1.1).

A layer is a list of entries. Blobs are written to a folder as `sha256/<hex>`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import get_ident
from typing import TYPE_CHECKING, Any

from keystone.bundle.formats import foreign_tar
from keystone.bundle.formats.pieces import of_file
from keystone.files import settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_STRIPPED = ("usr/share/doc/", "usr/share/locale/", "usr/share/man/", "usr/share/lintian/",
             "usr/share/info/", "usr/share/bash-completion/", "usr/share/perl5/", "usr/include/",
             "var/cache/", "var/log/", "var/lib/apt/", "var/lib/dpkg/info/", "dev/", "etc/apt/",
             "etc/hostname", "etc/resolv.conf", "etc/fstab")  # fmt: skip
"""Paths that containers do not need, or that depend on the building machine."""
_TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
}


@dataclass(frozen=True)
class Entry:
    """One member of a layer: a file with the bytes of `source`, a link, or a folder."""

    path: str
    source: Path | None = None
    link: str = ""
    mode: int = 0o755


@dataclass(frozen=True)
class Blob:
    """A written blob. digest: "sha256:<hex>". size: in bytes. diff_id: digest of the tar inside."""

    digest: str
    size: int
    diff_id: str = ""


@dataclass(frozen=True)
class Built:
    """The blobs of an image: index, manifest, and all blobs that the manifest names."""

    index: Blob
    manifest: Blob
    parts: tuple[Blob, ...]


class _Hashing:
    """A write-only file that hashes and counts the written bytes."""

    def __init__(self, target: Any) -> None:  # noqa: ANN401 any writable file
        self.target, self.sha, self.size = target, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.target.write(data)
        self.sha.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self.target.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha.hexdigest()}"


def archive(target: Path, members: Mapping[str, Path]) -> None:
    """Write a tar.gz of executable files (path -> source), sorted, without times and owners."""
    entries = [Entry(path, source) for path, source in members.items()]
    with target.open("wb") as raw, _gzip(raw) as packed, _tar(packed) as tar:
        for entry in sorted(entries, key=lambda entry: entry.path):
            _add(tar, entry)


def layer(blobs: Path, entries: Iterable[Entry]) -> Blob:
    """Write a layer with these entries and their parent folders."""
    wanted = {entry.path: entry for entry in entries}
    folders = {str(folder) for path in wanted for folder in PurePosixPath(path).parents}
    wanted |= {folder: Entry(folder) for folder in folders - {"."} if folder not in wanted}

    def fill(tar: tarfile.TarFile) -> None:
        for path in sorted(wanted):
            _add(tar, wanted[path])

    return _layer(blobs, fill)


def rebased(blobs: Path, system: Path, links: Mapping[str, str]) -> Blob:
    """Write a layer from the tar of a root system: stripped, sorted, without times, with links."""

    def fill(tar: tarfile.TarFile) -> None:
        with system.open("rb") as source:
            found = foreign_tar.members(of_file(source))
            members = {_clean(member.name): member for member in found if _kept(member)}
            for path in sorted(members.keys() | links.keys()):
                if path in links:
                    _add(tar, Entry(path, link=links[path]))
                    continue
                source.seek(members[path].offset)
                tar.addfile(_neutral(members[path]), source)

    return _layer(blobs, fill)


def image(blobs: Path, layers: Sequence[Blob], process: Mapping[str, object]) -> Built:
    """Write config, manifest and index of an image for linux/amd64.

    process: the config's `config` object (Entrypoint, Cmd, User ...); PATH is added.
    """
    platform = {"architecture": "amd64", "os": "linux"}
    config = _json(blobs, {
        **platform,
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": [f"PATH={PATH}"], "WorkingDir": "/", **process},
        "rootfs": {"type": "layers", "diff_ids": [blob.diff_id for blob in layers]},
        "history": [{"created_by": "keystone lab"} for _ in layers],
    })  # fmt: skip
    manifest = _json(blobs, {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, config),
        "layers": [_descriptor(LAYER, blob) for blob in layers],
    })  # fmt: skip
    index = _json(blobs, {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{**_descriptor(MANIFEST, manifest), "platform": platform}],
    })  # fmt: skip
    return Built(index, manifest, (config, *layers))


def _descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _json(blobs: Path, value: Mapping[str, object]) -> Blob:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    part = blobs / f".{os.getpid()}.{get_ident()}"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    _named(blobs, part, digest)
    return Blob(digest, len(data))


def _layer(blobs: Path, fill: Any) -> Blob:  # noqa: ANN401 a function of TarFile
    blobs.mkdir(parents=True, exist_ok=True)
    part = blobs / f".{os.getpid()}.{get_ident()}"
    try:
        with part.open("wb") as raw:
            outer = _Hashing(raw)
            with _gzip(outer) as packed:
                inner = _Hashing(packed)
                with _tar(inner) as tar:
                    fill(tar)
        _named(blobs, part, outer.digest)
    finally:
        part.unlink(missing_ok=True)
    return Blob(outer.digest, outer.size, inner.digest)


def _named(blobs: Path, part: Path, digest: str) -> None:
    """Give a written file its final name, once it is on disk."""
    target = blobs / digest.replace(":", "/")
    target.parent.mkdir(parents=True, exist_ok=True)
    settle(part, target)


def _gzip(target: Any) -> gzip.GzipFile:  # noqa: ANN401 any writable file
    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0)


def _tar(target: Any) -> tarfile.TarFile:  # noqa: ANN401 any writable file
    return tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    if entry.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.addfile(info)
    elif entry.source is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = entry.source.stat().st_size
        with entry.source.open("rb") as data:
            tar.addfile(info, data)


def _clean(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _kept(member: foreign_tar.Member) -> bool:
    path = _clean(member.name)
    return member.kind in _TYPES and path not in ("", ".") and not path.startswith(_STRIPPED)


def _neutral(member: foreign_tar.Member) -> tarfile.TarInfo:
    """The member's type, mode, owner ids and link, and nothing that differs between builds."""
    info = tarfile.TarInfo(_clean(member.name))
    info.type, info.mode = _TYPES[member.kind], member.mode
    info.size = member.size if member.kind == "file" else 0
    info.uid, info.gid = member.uid, member.gid
    info.linkname = _clean(member.link) if member.kind == "hard link" else member.link
    return info
