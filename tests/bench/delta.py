"""Measure the size of deltas and have-lists, and the memory needed to make and apply them."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
from typing import TYPE_CHECKING

from measure import LIMIT, MIB, Row, at_most, keystone, memory
from receiver import IMAGES, LAYERS, Receiver, accept
from workload import CREATED

from keystone.bundle.model import Digest, Item
from keystone.packager import lock as locks
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREATE = ("bundle", "create", "--keys", "keys")
CHANGED = 20
"""Images with one changed layer; with the completely changed image, 5 % of all layers change."""


def rows(folder: Path, *, large: bool) -> Iterator[Row]:
    """Measure stores of 0.1, 1 and (large) 20 GB; patches; a have-list of maximum length."""
    totals = {"0.1 GB": 10**8, "1 GB": 10**9, **({"20 GB": 20 * 10**9} if large else {})}
    for label, total in totals.items():
        yield from changes(Receiver(folder / "receiver", total), label)
        shutil.rmtree(folder / "receiver")
    yield from patches(folder / "patches")
    yield from have_list(folder / "have")


def key_of(have: Path) -> str:
    """Return the site's key, which a packager receives out of band."""
    with have.open("rb") as file:
        return str(json.loads(file.readline())["key"])


def changes(made: Receiver, label: str) -> Iterator[Row]:
    """Measure deltas in which nothing, one image, or 5 % of the layers changed."""
    folder = made.folder
    keystone(folder, "bundle", "have", "-o", "have", "--store", "store", "--trust", "trust")
    key, peaks = key_of(folder / "have"), [0.0]

    def size(lock: Path) -> int:
        _, peak = keystone(folder, *CREATE, lock, "-o", "delta.tar", "--have", "have",
                           "--site-key", key)  # fmt: skip
        peaks.append(peak)
        return (folder / "delta.tar").stat().st_size

    same = max(size(made.lock(1)), size(made.lock(2)))
    yield at_most(f"delta, no change, {label}", same / 1024, 64, "KiB")
    made.change(*((3, layer) for layer in range(LAYERS)))
    one = 100 * size(made.lock(3)) / (IMAGES * LAYERS * made.size)
    yield at_most(f"delta, one image of {IMAGES}, {label}", one, 2, "%", f"{one:.2f} %")
    made.change(*((image, 4) for image in range(10, 10 + CHANGED)))
    five = size(made.lock(4)) / ((LAYERS + CHANGED) * made.size)
    yield at_most(f"delta, 5 % of the layers, {label}", five, 1.15, "x", f"{five:.3f} x")
    yield at_most(f"memory, create a delta, {label}", max(peaks), LIMIT, "MiB")
    yield memory(f"ingest of a delta, {label}", folder, "store", "ingest", "delta.tar",
                 "--store", "store", "--trust", "trust")  # fmt: skip


def patches(folder: Path) -> Iterator[Row]:
    """Measure patches of a binary and a gzip layer with a small change, 64 MiB uncompressed."""
    folder.mkdir()
    fingerprint = keys.init(folder / "keys", None, CREATED)
    chance = random.Random(1)
    words = [chance.randbytes(12) for _ in range(50_000)]
    content = b"".join(chance.choice(words) for _ in range(64 * MIB // 12))
    _lock_of(folder, 1, content)
    content = content[: 20 * MIB] + chance.randbytes(50_000) + content[21 * MIB :]
    total = _lock_of(folder, 2, content)
    at = ("--store", "store", "--trust", "trust", "--root-fingerprint", fingerprint)
    keystone(folder, *CREATE, "1.lock.json", "-o", "1.tar")
    keystone(folder, "store", "ingest", "1.tar", *at)
    keystone(folder, "bundle", "have", "-o", "have", *at)
    create = memory("create a delta with patches", folder, *CREATE, "2.lock.json", "-o", "2.tar",
                    "--have", "have", "--site-key", key_of(folder / "have"),
                    "--base", "1.tar")  # fmt: skip
    share = 100 * (folder / "2.tar").stat().st_size / total
    yield at_most("delta, small change in binary and layer", share, 5, "%", f"{share:.2f} %")
    yield create
    yield memory("ingest of patches", folder, "store", "ingest", "2.tar", *at)
    shutil.rmtree(folder)


def _lock_of(folder: Path, number: int, content: bytes) -> int:
    """Write a lock of these bytes, plain and compressed; return their total size in bytes."""
    items, blobs = [], []
    for name, body in (("binary", content), ("layer", gzip.compress(content, 6, mtime=0))):
        digest = Digest(hashlib.sha256(body).hexdigest())
        (folder / digest.hex).write_bytes(body)
        items.append(Item("file", name, "1", digest, len(body)))
        blobs.append(LockedBlob(digest, len(body), f"local:{digest.hex}"))
    lock = Lock("patch", number, CREATED, 700, ("amd64",), tuple(items), tuple(blobs))
    (folder / f"{number}.lock.json").write_bytes(locks.dump(lock))
    return sum(blob.size for blob in blobs)


def have_list(folder: Path) -> Iterator[Row]:
    """Measure a have-list of 100,000 blobs (empty: `have` does not read them) and a large head."""
    store = folder / "store"
    (store / "blobs/sha256").mkdir(parents=True)
    (store / "metadata").mkdir()
    names = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(100_000)]
    for name in names:
        (store / "blobs/sha256" / name).touch()
    entries = {
        f"blobs/sha256/{name}": {"hashes": {"sha256": name}, "length": 1000 + int(name[:5], 16)}
        for name in names[:20_000]
    }
    head = json.dumps({"signed": {"targets": entries}}, separators=(",", ":")).encode()
    (store / "metadata/targets.json").write_bytes(head)
    accept(folder / "trust", head)
    row = memory("have-list of 100,000 blobs", folder, "bundle", "have", "-o", "have",
                 "--store", "store", "--trust", "trust")  # fmt: skip
    size = (folder / "have").stat().st_size / MIB
    yield at_most("have-list of 100,000 blobs", size, 8, "MiB", f"{size:.1f} MiB")
    yield row
    shutil.rmtree(folder)
