"""Sizes of deltas and memory of their verbs, on a store of sparse blobs: prints, asserts no time.

KEYSTONE_BENCH_GB=20 .venv/bin/python -m pytest -s tests/bench/test_delta_and_parts.py
The blobs of the store are holes but for their first bytes; what changes is real noise, as layers
are. Real disk: about a tenth of the size for the delta, twice the size of PARTS_GB for parts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess  # noqa: TID251 peak memory is a process's
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keystone.bundle import keys, trust, writer
from keystone.bundle import lock as locks
from keystone.bundle.lock import Lock, LockedBlob
from keystone.bundle.model import Digest, Item
from keystone.bundle.opened import read_head
from keystone.bundle.reader import TarStream
from keystone.bundle.sources import Sources

GB = float(os.environ.get("KEYSTONE_BENCH_GB", "0.5"))
PARTS_GB = min(GB, float(os.environ.get("KEYSTONE_BENCH_PARTS_GB", "1")))
IMAGES, LAYERS = 100, 5
LAYER = int(GB * 10**9) // (IMAGES * LAYERS)
CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Bench:
    """A lock of 100 images, and a store that has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = keys.init(folder / "keys", None, CREATED)
        self.layers: dict[tuple[int, int], tuple[str, int]] = {}
        for image in range(IMAGES):
            for layer in range(LAYERS):
                self.layers[image, layer] = self.blob(b"%d/%d" % (image, layer), real=False)

    def blob(self, start: bytes, *, real: bool) -> tuple[str, int]:
        """A layer: a hole behind its first bytes, or noise. Returns digest and size."""
        part = self.folder / "part"
        seen = hashlib.sha256()
        chance = random.Random(start)
        with part.open("wb") as file:
            left = LAYER
            while left:
                data = chance.randbytes(min(left, 1 << 20)) if real else bytes(min(left, 1 << 20))
                if left == LAYER:
                    data = start + data[len(start) :]
                seen.update(data)
                if real or left == LAYER:
                    file.write(data)
                left -= len(data)
            file.truncate(LAYER)
        part.rename(self.folder / seen.hexdigest())
        return seen.hexdigest(), LAYER

    def change(self, *places: tuple[int, int]) -> None:
        for place in places:
            self.layers[place] = self.blob(b"changed %d/%d" % place, real=True)

    def lock(self, number: int) -> Path:
        items, blobs = [], {}
        for image in range(IMAGES):
            layers = [self.layers[image, layer] for layer in range(LAYERS)]
            described = [{"digest": f"sha256:{d}", "size": s, "mediaType": "l"} for d, s in layers]
            document = json.dumps(
                {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0],
                 "layers": described}
            ).encode()  # fmt: skip
            root = hashlib.sha256(document).hexdigest()
            (self.folder / root).write_bytes(document)
            for digest, size in [*layers, (root, len(document))]:
                media = MANIFEST if digest == root else "l"
                blobs[digest] = LockedBlob(Digest(digest), size, f"local:{digest}", media)
            items.append(
                Item("image", f"registry.example/team/image-{image}", "1", Digest(root),
                     len(document), {"mediaType": MANIFEST},
                     tuple(dict.fromkeys(Digest(d) for d, _ in layers)))
            )  # fmt: skip
        made = Lock("bench", number, CREATED, 700, ("amd64",), tuple(items), tuple(blobs.values()))
        path = self.folder / f"{number}.lock.json"
        path.write_bytes(locks.dump(made))
        return path

    def store(self, lock: Path) -> None:
        """The store as an ingest of the whole bundle leaves it, without writing 20 GB."""
        store = self.folder / "store"
        (store / "blobs/sha256").mkdir(parents=True)
        (store / "metadata").mkdir()
        made = locks.load(lock)
        signing = writer.Signing(self.folder / "keys")
        targets = b""
        for part in writer.plan(made, self.folder, signing, Sources()):
            name = part.name.split("/")[-1]
            if part.name.startswith("blobs/"):
                source = self.folder / name
                target = store / part.name
                if source.exists():
                    target.hardlink_to(source)
                else:
                    target.write_bytes(b"".join(part.read()))
                continue
            metadata = part.name.startswith("metadata/") or name == "keystone.json"
            data = b"".join(part.read())
            (store / ("metadata" if metadata else ".") / name).write_bytes(data)
            targets = data if name == "targets.json" else targets
        accepted = {"number": 1, "created": CREATED.isoformat(),
                    "digest": f"sha256:{hashlib.sha256(targets).hexdigest()}"}  # fmt: skip
        (self.folder / "trust").mkdir()
        (self.folder / "trust/accepted.json").write_text(json.dumps(accepted))
        shutil.copy(self.folder / "keys/1.root.json", self.folder / "trust/root.json")

    def run(self, what: str, *words: str) -> int:
        """Run a command; prints time and peak memory; returns the latter in MiB."""
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, sys.executable, "-m", "keystone", *words],
            cwd=self.folder, capture_output=True, text=True, check=True,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")},
        )  # fmt: skip
        peak = int(done.stdout) >> 10
        print(f"  {what}: {time.monotonic() - start:.1f} s, {peak} MiB resident")
        return peak

    def delta(self, what: str, lock: Path, output: str) -> int:
        assert self.run(what, "bundle", "create", lock.name, "--keys", "keys", "-o", output,
                        "--have", "have", "--site-key", self.key) <= 96  # fmt: skip
        return (self.folder / output).stat().st_size


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"))
    made.store(made.lock(1))
    print(f"\n{IMAGES} images, {IMAGES * LAYERS} layers, {GB} GB")
    made.run("have", "bundle", "have", "-o", "have", "--store", "store", "--trust", "trust")
    made.key = json.loads((made.folder / "have").read_bytes().split(b"\n")[0])["key"]  # type: ignore[attr-defined]
    print(f"  have-list: {(made.folder / 'have').stat().st_size} bytes")
    return made


def test_no_change(bench: Bench) -> None:
    same = bench.delta("the same bundle", bench.folder / "1.lock.json", "same.tar")
    again = bench.delta("locked again, nothing new", bench.lock(2), "again.tar")
    print(f"  {same} and {again} bytes; limit 65536")
    assert max(same, again) <= 64 << 10


def test_five_percent_and_one_image(bench: Bench) -> None:
    bench.change(*((3, layer) for layer in range(LAYERS)))
    one = bench.delta("one image patched, all its layers new", bench.lock(3), "one.tar")
    print(f"  {one} bytes: {100 * one / (GB * 1e9):.2f} % of the bundle; limit 2 %")
    assert one <= 0.02 * GB * 1e9
    bench.change(*((image, 4) for image in range(10, 30)))
    changed = 25 * LAYER
    five = bench.delta("5 % of the layers changed", bench.lock(4), "five.tar")
    print(f"  {five} bytes: {five / changed:.4f} of the changed compressed bytes; limit 1.15")
    assert five <= 1.15 * changed
    assert bench.run("ingest of it", "store", "ingest", "five.tar", "--store", "store",
                     "--trust", "trust") <= 96  # fmt: skip
    with (bench.folder / "five.tar").open("rb") as file:
        pin = trust.Pin(fingerprint=bench.fingerprint)
        assert len(read_head(TarStream(file), pin).verified.targets) < 60


def test_patches(bench: Bench) -> None:
    """A binary and a gzip layer that changed a little, 64 MiB each before compression."""
    chance = random.Random(1)
    words = [chance.randbytes(12) for _ in range(50_000)]
    content = b"".join(chance.choice(words) for _ in range((64 << 20) // 12))
    changed = content[: 20 << 20] + chance.randbytes(50_000) + content[21 << 20 :]
    for number, data in ((21, content), (22, changed)):
        items, blobs = [], []
        for name, body in (("binary", data), ("layer", gzip.compress(data, 6, mtime=0))):
            digest = Digest(hashlib.sha256(body).hexdigest())
            (bench.folder / digest.hex).write_bytes(body)
            items.append(Item("file", name, "1", digest, len(body)))
            blobs.append(LockedBlob(digest, len(body), f"local:{digest.hex}"))
        lock = Lock("patch", number, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
        (bench.folder / f"{number}.lock.json").write_bytes(locks.dump(lock))
    sizes = [blob.size for blob in blobs]
    base = ("bundle", "create", "--keys", "keys")
    bench.run("create", *base, "21.lock.json", "-o", "21.tar")
    trusted = ("--trust", "patch-trust", "--root-fingerprint", bench.fingerprint)
    bench.run("ingest", "store", "ingest", "21.tar", "--store", "patched", *trusted)
    bench.run("have", "bundle", "have", "-o", "h21", "--store", "patched", *trusted)
    key = json.loads((bench.folder / "h21").read_bytes().split(b"\n")[0])["key"]
    peaks = [
        bench.run("delta", *base, "22.lock.json", "-o", "22.tar", "--have", "h21",
                  "--site-key", key, "--base", "21.tar"),
        bench.run("ingest of it", "store", "ingest", "22.tar", "--store", "patched", *trusted),
    ]  # fmt: skip
    size = (bench.folder / "22.tar").stat().st_size
    print(f"  {size} bytes for new blobs of {sizes}: {100 * size / sum(sizes):.2f} %")
    assert size < 0.05 * sum(sizes)
    assert max(peaks) <= 96


def test_have_list_of_100_000_blobs(bench: Bench) -> None:
    """Names only: `have` does not look into blobs. The head is the largest that readers take."""
    store = bench.folder / "many"
    (store / "blobs/sha256").mkdir(parents=True)
    names = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(100_000)]
    for name in names:
        (store / "blobs/sha256" / name).touch()
    (store / "metadata").mkdir()
    entries = {
        f"blobs/sha256/{name}": {"hashes": {"sha256": name}, "length": 1000 + int(name[:5], 16)}
        for name in names[:45_000]
    }
    head = json.dumps({"signed": {"targets": entries}}, separators=(",", ":")).encode()
    (store / "metadata/targets.json").write_bytes(head)
    peak = bench.run("have of 100,000 blobs", "bundle", "have", "-o", "have-many", "--store",
                     "many", "--trust", "trust")  # fmt: skip
    size = (bench.folder / "have-many").stat().st_size
    print(f"  {size} bytes with a head of {len(head)}; limit {8 << 20}")
    assert size < 8 << 20
    assert peak <= 96


def test_parts(bench: Bench) -> None:
    """Split and join with one parity part for ten, beside plain hashing of the same bytes."""
    folder = bench.folder
    count = max(int(PARTS_GB * 1e9) // LAYER, 1)
    bench.change(*((image, 0) for image in range(50, 50 + min(count, 40))))
    # Real bytes: what is a hole in the source is zeros in the bundle.
    lock = locks.load(bench.lock(5))
    few = tuple(blob for blob in lock.blobs if blob.size == LAYER)[-count:]
    items = tuple(Item("file", f"f{n}", "1", b.digest, b.size) for n, b in enumerate(few))
    (folder / "parts.lock.json").write_bytes(locks.dump(replace(lock, items=items, blobs=few)))
    bench.run("create", "bundle", "create", "parts.lock.json", "--keys", "keys", "-o", "p.tar")
    size = (folder / "p.tar").stat().st_size
    start = time.monotonic()
    with (folder / "p.tar").open("rb") as file:
        want = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"  plain SHA-256 of {size} bytes: {time.monotonic() - start:.1f} s")
    each = str(size // 10 + (2 << 20))
    peaks = [
        bench.run("split in ten", "bundle", "split", "p.tar", "--size", each, "-o", "plain"),
        bench.run("split in ten and one for parity", "bundle", "split", "p.tar", "--size", each,
                  "--parity", "1", "-o", "parts"),
    ]  # fmt: skip
    for path in (folder / "plain").iterdir():
        path.unlink()
    verify = ("bundle", "verify", "parts", "--root-fingerprint", bench.fingerprint)
    peaks.append(bench.run("verify the parts", *verify))
    peaks.append(bench.run("join", "bundle", "join", "parts", "-o", "j.tar"))
    (folder / "j.tar").unlink()
    (folder / "parts/p.tar.004").unlink()
    peaks.append(bench.run("join without one part", "bundle", "join", "parts", "-o", "j.tar"))
    with (folder / "j.tar").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == want
    assert max(peaks) <= 96
