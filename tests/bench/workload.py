"""Things to measure with: bundles of a given size, and a real registry full of images."""

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
from keystone.lab import mirror
from keystone.lab.catalogue import Image
from keystone.lab.images import Blob, Built
from keystone.lab.upstream import Upstream
from keystone.packager import lock, writer
from keystone.packager.keys import keys
from keystone.packager.sbom import describe
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
SHARES = (0.25, 0.15, 0.1)
"""Of all bytes, in the largest blobs: kubelet and a few images make up half of a real bundle."""
IMAGES = 12
IMAGE_BYTES = 66 * MIB
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Made:
    """A bundle, and the folder with its lock, keys and blobs."""

    folder: Path
    bundle: Path
    fingerprint: str
    size: int

    @property
    def blobs(self) -> list[Path]:
        """Its blobs as files, the largest first."""
        return sorted((self.folder / "files").iterdir(), key=lambda path: -path.stat().st_size)


def sizes(total: int) -> list[int]:
    """How large the blobs are: a few large ones, many of some MiB, 100 small ones."""
    rng = random.Random(total)
    found = [int(total * share) for share in SHARES]
    found += [rng.randint(10_000, 200_000) for _ in range(100)]
    while (left := total - sum(found)) > 0:
        found.append(min(left, rng.randint(2 * MIB, 30 * MIB)))
    return found


def local_lock(folder: Path, total: int, *, sparse: bool) -> lock.Lock:
    """A lock of files that lie in `folder`/files. sparse: holes instead of random bytes."""
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
    """A bundle of about `total` bytes."""
    found = local_lock(folder, total, sparse=sparse)
    (folder / "bench.lock.json").write_bytes(lock.dump(found))
    fingerprint = keys.init(folder / "keys", None, CREATED)
    output = folder / "bench.tar"
    done = writer.create(found, folder, output, writer.Signing(folder / "keys"), Sources())
    return Made(folder, output, fingerprint, done.size)


def many(folder: Path, count: int) -> Made:
    """A lock of so many small blobs; the bundle is still to be made."""
    return _ready(folder, [b"blob %d " % number * 100 for number in range(count)])


def described(folder: Path, count: int) -> Made:
    """A lock of so many archives with four packages each, and its SBOMs, of which none is kept."""
    made = _ready(folder, [archive(number) for number in range(count)])
    path = folder / "bench.lock.json"
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache")}):
        path.write_bytes(lock.dump(describe.describe(lock.load(path), folder, Sources())))
    shutil.rmtree(folder / "cache")
    return made


def archive(number: int) -> bytes:
    """A tar in which dpkg says that four packages are installed."""
    stanza = "Package: p{}-{}\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n"
    text = "\n".join(stanza.format(number, which) for which in range(4)).encode()
    member = tarfile.TarInfo("var/lib/dpkg/status")
    member.size = len(text)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(member, io.BytesIO(text))
    return made.getvalue()


def _ready(folder: Path, contents: Iterable[bytes]) -> Made:
    """A lock of these blobs, and keys."""
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
    """One image of two layers of random bytes."""

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
def registry(folder: Path) -> Iterator[tuple[mirror.Mirror, list[str]]]:
    """A real registry (CNCF distribution) with 12 images of 66 MiB, and their references."""
    blobs = folder / "upstream/blobs"
    images = tuple(random_image(blobs, number) for number in range(IMAGES))
    with mirror.serve(Upstream({}, (), images, blobs)) as found:
        yield found, [image.ref for image, _ in images]
