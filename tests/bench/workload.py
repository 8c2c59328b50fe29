"""Workloads for measurements: bundles of a given size, and a real registry with images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest import mock

from measure import MIB

from keystone.bundle import media
from keystone.bundle.model import Digest, Item
from keystone.lab.mirror import serve
from keystone.lab.mirror.catalogue import Image
from keystone.lab.mirror.images import Blob, Built
from keystone.lab.mirror.upstream import Upstream
from keystone.packager import lock, members, pack
from keystone.packager.keys import keys
from keystone.packager.sbom import describe
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
SHARES = (0.25, 0.15, 0.1)
"""The largest blobs' shares of all bytes: kubelet and a few images are half of a real bundle."""
IMAGES = 12
IMAGE_BYTES = 66 * MIB
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Made:
    """A bundle, and the folder with its lock, keys and blobs. size: of the bundle in bytes."""

    folder: Path
    bundle: Path
    fingerprint: str
    size: int

    @property
    def blobs(self) -> list[Path]:
        """The blobs as files, the largest first."""
        return sorted((self.folder / "files").iterdir(), key=lambda path: -path.stat().st_size)


def sizes(total: int) -> list[int]:
    """Return sizes of blobs in bytes: a few large ones, many of some MiB, 100 small ones."""
    rng = random.Random(total)
    found = [int(total * share) for share in SHARES]
    found += [rng.randint(10_000, 200_000) for _ in range(100)]
    while (left := total - sum(found)) > 0:
        found.append(min(left, rng.randint(2 * MIB, 30 * MIB)))
    return found


def local_lock(folder: Path, total: int, *, sparse: bool) -> lock.Lock:
    """Write files to `folder`/files and return their lock. sparse: holes, not random bytes."""
    (folder / "files").mkdir(parents=True)
    items, blobs = [], []
    for number, size in enumerate(sizes(total)):
        path = folder / "files" / f"f{number}"
        with path.open("wb") as file:
            if sparse:
                file.write(f"blob {number}".encode()[:size])
                file.truncate(size)
            else:
                for start in range(0, size, MIB):
                    file.write(os.urandom(min(MIB, size - start)))
        with path.open("rb") as file:
            digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        items.append(Item("file", path.name, "1", digest, size))
        blobs.append(lock.LockedBlob(digest, size, f"local:files/{path.name}"))
    return lock.Lock("bench", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))


def make(folder: Path, total: int, *, sparse: bool = False) -> Made:
    """Make a bundle of about `total` bytes."""
    found = local_lock(folder, total, sparse=sparse)
    (folder / "bench.lock.json").write_bytes(lock.dump(found))
    fingerprint = keys.init(folder / "keys", None, CREATED)
    output = folder / "bench.tar"
    done = pack.bundle(found, folder, output, members.Signing(folder / "keys"), Sources())
    return Made(folder, output, fingerprint, done.size)


def many(folder: Path, count: int) -> Made:
    """Make a lock of `count` small blobs, without the bundle."""
    return _ready(folder, [b"blob %d " % number * 100 for number in range(count)])


def described(folder: Path, count: int) -> Made:
    """Make a lock of `count` archives with four packages each, and its SBOMs, without a cache."""
    made = _ready(folder, [archive(number) for number in range(count)])
    path = folder / "bench.lock.json"
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache")}):
        path.write_bytes(lock.dump(describe.describe(lock.load(path), folder, Sources())))
    shutil.rmtree(folder / "cache")
    return made


def archive(number: int) -> bytes:
    """Return a tar with a dpkg status file that lists four installed packages."""
    stanza = "Package: p{}-{}\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n"
    text = "\n".join(stanza.format(number, which) for which in range(4)).encode()
    member = tarfile.TarInfo("var/lib/dpkg/status")
    member.size = len(text)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(member, io.BytesIO(text))
    return made.getvalue()


def _ready(folder: Path, contents: Iterable[bytes]) -> Made:
    """Write a lock of these blobs, and keys."""
    (folder / "files").mkdir(parents=True)
    items, blobs = [], []
    for number, data in enumerate(contents):
        path = folder / "files" / f"f{number}"
        path.write_bytes(data)
        digest = Digest(hashlib.sha256(data).hexdigest())
        items.append(Item("file", path.name, "1", digest, len(data)))
        blobs.append(lock.LockedBlob(digest, len(data), f"local:files/{path.name}"))
    found = lock.Lock("bench", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
    (folder / "bench.lock.json").write_bytes(lock.dump(found))
    fingerprint = keys.init(folder / "keys", None, CREATED)
    return Made(folder, folder / "bench.tar", fingerprint, sum(blob.size for blob in blobs))


def random_image(blobs: Path, number: int) -> tuple[Image, Built]:
    """Make an image of two layers of random bytes."""

    def keep(data: bytes) -> Blob:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / "sha256" / digest).write_bytes(data)
        return Blob(f"sha256:{digest}", len(data))

    def described(kind: str, blob: Blob) -> dict[str, object]:
        return {"mediaType": f"{OCI}.{kind}", "digest": blob.digest, "size": blob.size}

    (blobs / "sha256").mkdir(parents=True, exist_ok=True)
    parts = [keep(os.urandom(IMAGE_BYTES // 2)) for _ in range(2)]
    layers = [described("layer.v1.tar", part) for part in parts]
    config = keep(json.dumps({
        "architecture": "amd64", "os": "linux", "number": number,
        "rootfs": {"type": "layers", "diff_ids": [part.digest for part in parts]},
    }).encode())  # fmt: skip
    manifest = keep(json.dumps({
        "schemaVersion": 2, "mediaType": media.MANIFEST,
        "config": described("config.v1+json", config), "layers": layers,
    }).encode())  # fmt: skip
    child = {**described("manifest.v1+json", manifest),
             "platform": {"os": "linux", "architecture": "amd64"}}  # fmt: skip
    index = keep(json.dumps(
        {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [child]}
    ).encode())  # fmt: skip
    image = Image(f"bench.example/image{number}:v1", "", {}, (), (), "")
    return image, Built(index, manifest, (config, *parts))


@contextmanager
def registry(folder: Path) -> Iterator[tuple[serve.Mirror, list[str]]]:
    """Run a real registry (CNCF distribution) with 12 images of 66 MiB; give their references."""
    blobs = folder / "upstream/blobs"
    images = tuple(random_image(blobs, number) for number in range(IMAGES))
    with serve.serve(Upstream({}, (), images, blobs)) as found:
        yield found, [image.ref for image, _ in images]
