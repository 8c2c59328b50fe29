"""How fast and how large Keystone is, beside a peer or the machine's limit in the same run.

    make bench                        0.1 and 1 GB
    make bench BENCH='--large'        10 GB too; needs 25 GB of disk
    make bench BENCH='--json'

Each pair is measured in turns, several times, and the best of each is compared: what else the
machine does then disturbs both alike. Nothing here passes or fails; the target stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess  # noqa: TID251 peers and Keystone are measured as processes
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import workload
from workload import MIB, Made

from keystone.bundle import opened, store, trust
from keystone.log import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 5
LIMIT = 96
PROBE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
assert code.returncode == 0, code.stderr.decode()[-2000:]
print(json.dumps([time.monotonic() - start,
                  resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table. ours and theirs as a person says them; value is compared to target."""

    what: str
    ours: str
    beside: str
    theirs: str
    value: float
    target: str
    reached: bool


def run(*words: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(words, check=True, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def keystone(folder: Path, *words: str | Path) -> tuple[float, float]:
    """Seconds and peak MiB of a command. A small process in between: a child starts with its
    parent's peak.
    """
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROBE, sys.executable, "-m", "keystone", *words],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def best(*works: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """The least seconds of each, measured in turns."""
    return [
        min(found) for found in zip(*([w() for w in works] for _ in range(rounds)), strict=True)
    ]


def rate(size: int, seconds: float) -> str:
    return f"{size / MIB / seconds:.0f} MiB/s"


def memory(made: Made, label: str) -> Iterator[Row]:
    """Peak resident memory of the three commands that see every byte."""
    folder = made.folder
    create = ("bundle", "create", "bench.lock.json", "--keys", "keys", "-o", "again.tar")
    pin = ("--root-fingerprint", made.fingerprint)
    commands = {
        "create": create,
        "verify": ("bundle", "verify", made.bundle, *pin),
        "ingest": ("store", "ingest", made.bundle, *pin, "--store", "store", "--trust", "trust"),
    }
    for name, words in commands.items():
        seconds, peak = keystone(folder, *words)
        yield Row(f"memory, {name} {label}", f"{peak:.0f} MiB", "limit", f"{LIMIT} MiB",
                  round(peak, 1), f"<= {LIMIT} MiB", peak <= LIMIT)  # fmt: skip
        del seconds
        for path in (folder / "again.tar", folder / "store"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def verify(made: Made) -> Row:
    """Every byte checked, against OpenSSL hashing the same blobs on all cores."""
    names = "\0".join(map(str, made.blobs)).encode()
    pin = trust.Pin(fingerprint=made.fingerprint)
    nowhere = made.folder / "nowhere"

    def ours() -> float:
        return timed(lambda: opened.open_verified(
            made.bundle, fingerprint=pin.fingerprint, directory=nowhere))  # fmt: skip

    def plain() -> float:
        return timed(lambda: subprocess.run(
            ["xargs", "-0", "-n", "1", "-P", str(os.cpu_count()), "openssl", "dgst", "-sha256"],
            input=names, check=True, stdout=subprocess.DEVNULL))  # fmt: skip

    us, limit = best(ours, plain)
    value = limit / us
    return Row("verify", rate(made.size, us), "openssl sha256, all cores", rate(made.size, limit),
               round(value, 2), ">= 0.9", value >= 0.9)  # fmt: skip


def raw_write(path: Path, size: int) -> float:
    """Seconds to write this many bytes one after the other, and to have them on the disk."""
    block = os.urandom(MIB)
    start = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, MIB):
            file.write(block[: min(MIB, size - at)])
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    path.unlink()
    return seconds


def ingest(made: Made) -> Row:
    """Staged bytes into the store, against the disk's own speed."""
    pin = trust.Pin(fingerprint=made.fingerprint)
    target = made.folder / "store"

    def ours() -> float:
        with made.bundle.open("rb", buffering=0) as stream:
            seconds = timed(lambda: store.ingest(stream, target, pin))
        shutil.rmtree(target)
        return seconds

    us, limit = best(ours, lambda: raw_write(made.folder / "raw", made.size))
    value = limit / us
    return Row("ingest", rate(made.size, us), "sequential write + fsync", rate(made.size, limit),
               round(value, 2), ">= 0.85", value >= 0.85)  # fmt: skip


def create(folder: Path) -> Iterator[Row]:
    """A bundle out of a real registry, against skopeo into one layout, and tar of that."""
    with workload.registry(folder) as (mirror, refs):
        head = "apiVersion: keystone/v1alpha1\nkind: BundleDefinition\nmetadata: {name: bench}\n"
        images = "".join(f"    - {{ref: '{ref}', group: node}}\n" for ref in refs)
        (folder / "b.yaml").write_text(
            f"{head}spec:\n  number: 1\n  architectures: [amd64]\n  installer: false\n"
            f"  images:\n{images}"
        )
        keystone(folder, "bundle", "lock", "b.yaml", "--mirrors", mirror.mirrors_file)
        keystone(folder, "bundle", "keys", "init", "--dir", "keys")
        words = ("bundle", "create", "b.lock.json", "--keys", "keys", "-o", "b.tar",
                 "--mirrors", mirror.mirrors_file)  # fmt: skip
        sizes: list[int] = []
        peaks: list[float] = []

        def ours() -> float:
            seconds, peak = keystone(folder, *words)
            peaks.append(peak)
            sizes.append((folder / "b.tar").stat().st_size)
            (folder / "b.tar").unlink()
            return seconds

        def peer() -> float:
            seconds = timed(lambda: skopeo(folder, mirror.registry, refs))
            (folder / "layout.tar").unlink()
            shutil.rmtree(folder / "layout")
            return seconds

        us, them, limit = best(ours, peer, lambda: raw_write(folder / "raw", sizes[-1]), rounds=3)
    yield Row(f"create, {len(refs)} images, {sizes[0] / 1e9:.1f} GB", f"{us:.1f} s",
              "skopeo copy, tar, sync", f"{them:.1f} s", round(them / us, 2), ">= 3",
              them / us >= 3)  # fmt: skip
    yield Row("create", rate(sizes[0], us), "sequential write + fsync", rate(sizes[0], limit),
              round(limit / us, 2), ">= 0.85", limit / us >= 0.85)  # fmt: skip


def skopeo(folder: Path, registry: str, refs: list[str]) -> None:
    """What a packager would do without us; the tar is synced, as ours is."""
    for ref in refs:
        name = ref.rpartition("/")[2].replace(":", "-")
        run("skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{registry}/{ref}",
            f"oci:{folder / 'layout'}:{name}")  # fmt: skip
    run("tar", "-C", folder, "-cf", folder / "layout.tar", "layout")
    run("sync", folder / "layout.tar")


def rows(options: argparse.Namespace) -> Iterator[Row]:
    gigabyte = 10**9
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="keystone-bench-") as name:
        folder = Path(name)
        (folder / "create").mkdir()
        yield from create(folder / "create")
        shutil.rmtree(folder / "create")
        made = workload.make(folder / "small", gigabyte // 10)
        yield from memory(made, "0.1 GB")
        made = workload.make(folder / "middle", gigabyte)
        yield from memory(made, "1 GB")
        yield verify(made)
        yield ingest(made)
        shutil.rmtree(folder / "middle")
        if options.large:
            yield from memory(workload.make(folder / "large", 10 * gigabyte, sparse=True), "10 GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--large", action="store_true", help="10 GB too")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on the disk to measure")
    options = parser.parse_args()
    found = list(rows(options))
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    table(
        ("what", "ours", "beside", "theirs", "value", "target", ""),
        [(r.what, r.ours, r.beside, r.theirs, r.value, r.target, "" if r.reached else "missed")
         for r in found],
    )  # fmt: skip


if __name__ == "__main__":
    main()
