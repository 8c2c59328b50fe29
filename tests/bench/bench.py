"""Measure Keystone's speed and size, compared to a peer or the machine's limit in the same run.

    make bench                                     0.1 and 1 GB, 5,000 and 15,000 blobs
    make bench BENCH='--only memory --only delta'  some sections; SECTIONS lists the names
    make bench BENCH='--large'                     also 10 GB; needs 25 GB of disk
    make bench BENCH='--only again'                a second run of the installer; needs root
    make bench BENCH='--only images'               compare with live-build's medium; needs root
    make bench BENCH='--only lab'                  a site on container machines; needs root
    make bench BENCH='--json'

Each pair is measured alternately, several times, and the best results are compared, so that other
load on the machine affects both alike. Benchmarks do not fail; the table shows the targets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import again
import delta
import images
import lab
import memory
import speed
import workload

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from measure import Row


def staged(folder: Path, measured: Callable[[workload.Made], Row]) -> Iterator[Row]:
    """Yield a measurement on a bundle of 1 GB."""
    made = workload.make(folder / "staged", 10**9)
    yield measured(made)
    shutil.rmtree(made.folder)


SECTIONS: dict[str, Callable[[Path, bool], Iterator[Row]]] = {
    "create": lambda folder, _: speed.create(folder),
    "verify": lambda folder, _: staged(folder, speed.verify),
    "ingest": lambda folder, _: staged(folder, speed.ingest),
    "memory": lambda folder, large: memory.by_bytes(folder, large=large),
    "blobs": lambda folder, _: memory.by_blobs(folder),
    "sbom": lambda folder, _: memory.of_sboms(folder),
    "delta": lambda folder, large: delta.rows(folder, large=large),
    "again": lambda folder, large: again.rows(folder, large=large),
    "images": lambda folder, _: images.rows(folder),
    "lab": lambda _, __: lab.rows(),
}
ON_REQUEST = frozenset({"again", "images", "lab"})
"""Sections that run only when named: they need root, download and build much, and take long."""


def rows(options: argparse.Namespace) -> Iterator[Row]:
    for name in options.only or [name for name in SECTIONS if name not in ON_REQUEST]:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="keystone-bench-") as folder:
            yield from SECTIONS[name](Path(folder), options.large)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--large", action="store_true", help="also measure 10 GB")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="run only this section")
    parser.add_argument("--dir", default="/var/tmp", help="folder on the disk to measure")
    options = parser.parse_args()
    found = []
    for row in rows(options):
        log.info(f"{row.what}: {row.ours}")
        found.append(row)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    log.table(
        ("what", "ours", "beside", "theirs", "value", "target", ""),
        [(r.what, r.ours, r.beside, r.theirs, r.value, r.target, "" if r.reached else "missed")
         for r in found],
    )  # fmt: skip


if __name__ == "__main__":
    main()
