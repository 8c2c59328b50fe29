"""A small valid bundle, built step by step, so that a test can make any part wrong.

This module does not use the packager's code: it implements signing and packing again, and can do
things that the packager refuses. The order: contents, signed list, snapshot, timestamp, archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import random
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical

if TYPE_CHECKING:
    from collections.abc import Callable

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROLES = ("root", "timestamp", "snapshot", "targets")
OCI = "application/vnd.oci.image"
Json = dict[str, Any]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compact(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class Key:
    """An Ed25519 key, derived from a name and a seed."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(
            hashlib.sha256(f"{name} {seed}".encode()).digest()
        )
        self.public = self.private.public_key().public_bytes_raw().hex()
        self.id = sha(self.public.encode())

    def entry(self) -> Json:
        return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.public}}

    def sign(self, signed: Json, keyid: str = "") -> Json:
        text = encode_canonical(signed)
        assert text is not None
        return {"keyid": keyid or self.id, "sig": self.private.sign(text.encode()).hex()}


@dataclass
class Entry:
    """A tar member; every field of its header can be changed."""

    name: bytes
    data: bytes = b""
    flag: bytes = b"0"
    link: bytes = b""
    mode: bytes = b"0000644\0"
    size: bytes | None = None
    mtime: bytes | None = None
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""
    aligned: bool = True

    def header(self, mtime: int) -> bytes:
        size = b"%011o\0" % len(self.data) if self.size is None else self.size
        fields = b"".join((
            self.name[:100].ljust(100, b"\0"), self.mode, b"0000000\0" * 2, size,
            b"%011o\0" % mtime if self.mtime is None else self.mtime, b" " * 8, self.flag,
            self.link[:100].ljust(100, b"\0"), self.magic, b"\0" * 64, b"0000000\0" * 2,
            self.prefix[:155].ljust(155, b"\0"), b"\0" * 12,
        ))  # fmt: skip
        assert len(fields) == 512, len(fields)
        return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def pack(entries: list[Entry], mtime: int) -> bytes:
    """The archive, with each member's data at a multiple of 4096, as the format requires."""
    out = bytearray()
    for entry in entries:
        gap = (4096 - 512 - len(out)) % 4096
        if gap and entry.aligned:
            out += Entry(b".padding", bytes(gap - 512)).header(mtime) + bytes(gap - 512)
        out += entry.header(mtime) + entry.data + bytes(-len(entry.data) % 512)
    return bytes(out + bytes(1024 + -(len(out) + 1024) % 4096))


def tar(files: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, data in files:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def plain(name: str, data: bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def ar(parts: list[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in parts:
        out += f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def deb(
    control: bytes,
    *,
    extra: list[tuple[tarfile.TarInfo, bytes]] | None = None,
    squeeze: str = ".xz",
) -> bytes:
    files = [plain("./control", control), *(extra or [])]
    pressed = {"": bytes, ".gz": lambda d: gzip.compress(d, mtime=0), ".xz": lzma.compress}
    data = lzma.compress(tar([plain("./usr/bin/tool", b"#!/bin/sh\n", mode=0o755)]))
    name = f"control.tar{squeeze}"
    return ar([("debian-binary", b"2.0\n"), (name, pressed[squeeze](tar(files))),
               ("data.tar.xz", data)])  # fmt: skip


def control(name: str, version: str, architecture: str = "amd64") -> bytes:
    return f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n".encode()


def chart(
    extra: list[tuple[tarfile.TarInfo, bytes]] | None = None, *, top: str = "web/Chart.yaml"
) -> bytes:
    files = [plain(top, b"name: web\nversion: 1.0.0\n"), plain("web/values.yaml", b"a: 1\n")]
    return gzip.compress(tar([*files, *(extra or [])]), mtime=0)


@dataclass
class Draft:
    """A bundle to change: mutations set plain values or hooks.

    edit: hooks on a role's `signed` before signing. after: hooks on a role's file after signing,
    before the next file names its digest. late: the same after everything is signed. raw: hooks on
    contents before the signed list.
    """

    rng: random.Random
    number: int = 7
    created: datetime = CREATED
    items: list[Json] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    index: list[Json] = field(default_factory=list)
    edit: dict[str, Callable[[Json], Any]] = field(default_factory=dict)
    after: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    late: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    raw: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    signers: dict[str, list[tuple[Key, str]]] = field(default_factory=dict)
    roots: list[bytes] = field(default_factory=list)
    manifest: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root_key, self.release = Key("root"), Key("release")
        self._image()
        words = [bytes(self.rng.randbytes(self.rng.randint(1, 9000))) for _ in range(3)]
        self.add("binary", "tool", "v1.2.3", words[0], group="node")
        self.add("file", "etc/motd", "1", words[1], filename="motd.txt")
        self.deb = deb(control("tool", "1.0-1"), squeeze=self.rng.choice(["", ".gz", ".xz"]))
        self.add("deb", "tool", "1.0-1", self.deb, suite="trixie", architecture="amd64",
                 filename="tool_1.0-1_amd64.deb", groups="node")  # fmt: skip
        self.add("chart", "web", "1.0.0", chart(), filename="web-1.0.0.tgz")

    # Content.

    def add(self, kind: str, name: str, version: str, data: bytes, **labels: str) -> Json:
        item: Json = {
            "kind": kind, "name": name, "version": version, "digest": f"sha256:{sha(data)}",
            "size": len(data), "labels": labels,
        }  # fmt: skip
        self.items.append(item)
        self.blobs.append(data)
        return item

    def replace(self, kind: str, data: bytes) -> None:
        """Replace the bytes of an item; they will be signed."""
        item = next(item for item in self.items if item["kind"] == kind)
        at = next(i for i, blob in enumerate(self.blobs) if f"sha256:{sha(blob)}" == item["digest"])
        self.blobs[at] = data
        item["digest"], item["size"] = f"sha256:{sha(data)}", len(data)

    def _image(self) -> None:
        self.layer = self.rng.randbytes(self.rng.randint(1, 12_000))
        self.config = compact({"os": "linux", "architecture": "amd64", "seed": self.rng.random()})
        self.image_manifest: Json = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.descriptor(self.config, f"{OCI}.config.v1+json"),
            "layers": [self.descriptor(self.layer, f"{OCI}.layer.v1.tar+gzip")],
        }
        self.set_image(compact(self.image_manifest))

    def set_image(self, manifest: bytes, index: bytes | None = None) -> None:
        """Set or replace the image: index, manifest, configuration and layer."""
        old = getattr(self, "_image_blobs", ())
        self.blobs = [blob for blob in self.blobs if blob not in old]
        child = self.descriptor(manifest, f"{OCI}.manifest.v1+json")
        child["platform"] = {"os": "linux", "architecture": "amd64"}
        if index is None:
            index = compact({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json",
                             "manifests": [child]})  # fmt: skip
        self._image_blobs = (index, manifest, self.config, self.layer)
        self.blobs = [*self._image_blobs, *self.blobs]
        root = self.descriptor(index, f"{OCI}.index.v1+json")
        item = {
            "kind": "image", "name": "registry.example/team/app", "version": "v1",
            "digest": root["digest"], "size": root["size"],
            "labels": {"group": "node", "mediaType": root["mediaType"]},
            "blobs": [f"sha256:{sha(blob)}" for blob in self._image_blobs[1:]],
        }  # fmt: skip
        self.items = [item, *(one for one in self.items if one["kind"] != "image")]
        root["annotations"] = {"org.opencontainers.image.ref.name": "registry.example/team/app:v1"}
        self.index = [root]

    @staticmethod
    def descriptor(data: bytes, media_type: str) -> Json:
        return {"mediaType": media_type, "digest": f"sha256:{sha(data)}", "size": len(data)}

    # Signing.

    def role_keys(self, role: str) -> list[tuple[Key, str]]:
        key = self.root_key if role == "root" else self.release
        return self.signers.get(role, [(key, "")])

    def root_document(self) -> Json:
        keys = {key.id: key.entry() for key in (self.root_key, self.release)}
        roles = {role: {"keyids": [self.release.id], "threshold": 1} for role in ROLES[1:]}
        roles["root"] = {"keyids": [self.root_key.id], "threshold": 1}
        return {
            "_type": "root", "version": 1, "spec_version": "1.0.33", "consistent_snapshot": False,
            "expires": "2036-01-01T00:00:00Z", "keys": keys, "roles": roles,
        }  # fmt: skip

    def signed(self, role: str, document: Json) -> bytes:
        self.edit.get(role, lambda _: None)(document)
        signatures = [key.sign(document, keyid) for key, keyid in self.role_keys(role)]
        data = compact({"signatures": signatures, "signed": document})
        return self.after.get(role, bytes)(data)

    def _base(self, role: str) -> Json:
        expires = self.created + timedelta(days=700)
        base = {"_type": role, "version": self.number, "spec_version": "1.0.33",
                "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}  # fmt: skip
        created = {"x-keystone-created": self.created.isoformat()}
        return base if role == "snapshot" else {**base, **created}

    def _meta(self, data: bytes) -> Json:
        return {"version": self.number, "length": len(data), "hashes": {"sha256": sha(data)}}

    def contents(self) -> list[tuple[str, bytes]]:
        """All members after the metadata, in order."""
        self.manifest = {
            "apiVersion": "keystone/v1alpha1", "kind": "BundleManifest",
            "metadata": {"name": "small"}, "number": self.number, "items": self.items,
        } | self.manifest  # fmt: skip
        index = compact({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json",
                         "manifests": self.index})  # fmt: skip
        named = [
            ("keystone.json", json.dumps(self.manifest, indent=1, sort_keys=True).encode() + b"\n"),
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", index),
        ]
        named = [(name, self.raw.get(name, bytes)(data)) for name, data in named]
        return [*named, *((f"blobs/sha256/{sha(blob)}", blob) for blob in self.blobs)]

    def entries(self) -> list[Entry]:
        contents = self.contents()
        targets = self._base("targets")
        targets["targets"] = {
            name: {"length": len(data), "hashes": {"sha256": sha(data)}} for name, data in contents
        }
        files = {"targets": self.signed("targets", targets)}
        snapshot = self._base("snapshot") | {"meta": {"targets.json": self._meta(files["targets"])}}
        files["snapshot"] = self.signed("snapshot", snapshot)
        timestamp = self._base("timestamp")
        timestamp["meta"] = {"snapshot.json": self._meta(files["snapshot"])}
        files["timestamp"] = self.signed("timestamp", timestamp)
        roots = self.roots or [self.signed("root", self.root_document())]
        head = [(f"metadata/{i}.root.json", data) for i, data in enumerate(roots, 1)]
        head = [(name, self.late.get("root", bytes)(data)) for name, data in head]
        head += [
            (f"metadata/{role}.json", self.late.get(role, bytes)(files[role])) for role in ROLES[1:]
        ]
        return [Entry(name.encode(), data) for name, data in [*head, *contents]]

    @property
    def mtime(self) -> int:
        return int(self.created.timestamp())

    def build(self) -> bytes:
        return pack(self.entries(), self.mtime)


def valid_root() -> bytes:
    """The root that hosts pin: every draft starts from it."""
    return Draft(random.Random(0)).signed("root", Draft(random.Random(0)).root_document())
