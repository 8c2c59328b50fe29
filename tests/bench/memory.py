"""Measure the peak memory of verbs that read all bytes: by bytes, number of blobs, SBOMs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import workload
from measure import MIB, memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measure import Row
    from workload import Made

PARTS = 10


def of(made: Made, label: str) -> Iterator[Row]:
    """Measure create, verify, ingest, split, join. Needs at most 3 times the bundle's size of disk.

    Removes the bundle and everything made from it.
    """
    folder, bundle = made.folder, made.bundle
    pin = ("--root-fingerprint", made.fingerprint)
    create = ("bundle", "create", "bench.lock.json", "--keys", "keys", "-o", bundle)
    bundle.unlink(missing_ok=True)
    yield memory(f"create, {label}", folder, *create)
    yield memory(f"verify, {label}", folder, "bundle", "verify", bundle, *pin)
    yield memory(f"ingest, {label}", folder, "store", "ingest", bundle, *pin,
                 "--store", "store", "--trust", "trust")  # fmt: skip
    shutil.rmtree(folder / "store")
    each = str(bundle.stat().st_size // PARTS + 4 * MIB)
    yield memory(f"split, {label}", folder, "bundle", "split", bundle, "--size", each,
                 "--parity", "1", "-o", "parts")  # fmt: skip
    bundle.unlink()
    yield memory(f"verify parts, {label}", folder, "bundle", "verify", "parts", *pin)
    yield memory(f"join, {label}", folder, "bundle", "join", "parts", "-o", bundle)
    bundle.unlink()
    next((folder / "parts").glob("*.004")).unlink()
    yield memory(f"join, lost part, {label}", folder, "bundle", "join", "parts", "-o", bundle)
    shutil.rmtree(folder)


def by_bytes(folder: Path, *, large: bool) -> Iterator[Row]:
    """Measure few large blobs. The largest are sparse files, which are zeros in the bundle."""
    yield from of(workload.make(folder / "small", 10**8), "0.1 GB")
    yield from of(workload.make(folder / "middle", 10**9), "1 GB")
    if large:
        yield from of(workload.make(folder / "large", 10**10, sparse=True), "10 GB")


def by_blobs(folder: Path) -> Iterator[Row]:
    """Measure many small blobs."""
    for count in (5_000, 15_000):
        yield from of(workload.many(folder / str(count), count), f"{count:,} blobs")


def of_sboms(folder: Path) -> Iterator[Row]:
    """Measure a create that scans every blob to make SBOMs and provenance again."""
    for count in (200, 600):
        made = workload.described(folder / f"sbom-{count}", count)
        what = f"create with new SBOMs, {count} blobs, {4 * count} packages"
        yield memory(what, made.folder, "bundle", "create", "bench.lock.json", "--keys", "keys",
                     "-o", made.bundle)  # fmt: skip
        shutil.rmtree(made.folder)
