"""Measure speed, compared to skopeo and tar, to OpenSSL, and to the disk."""

from __future__ import annotations

import os
import shutil
import subprocess  # noqa: TID251 peers are measured as processes
from typing import TYPE_CHECKING

import workload
from measure import MIB, at_least, at_most, best, keystone, rate, run, timed

from keystone.bundle.read import bundle as opened
from keystone.bundle.trust import verify as trust
from keystone.store import store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measure import Row
    from workload import Made


def verify(made: Made) -> Row:
    """Compare verifying a bundle with OpenSSL hashing the same blobs on all cores."""
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
    return at_least("verify", rate(made.size, us), "openssl sha256, all cores",
                    rate(made.size, limit), (limit / us, 0.9))  # fmt: skip


def raw_copy(source: Path, target: Path) -> float:
    """Copy a file sequentially and fsync it; return the seconds.

    It copies the same bytes from the page cache to the same file system as Keystone.
    """

    def copy() -> None:
        buffer = bytearray(MIB)
        with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
            while count := old.readinto(buffer):
                new.write(memoryview(buffer)[:count])
            os.fsync(new.fileno())

    seconds = timed(copy)
    target.unlink()
    return seconds


def ingest(made: Made) -> Row:
    """Compare ingesting a bundle into the store with the disk's speed."""
    pin = trust.Pin(fingerprint=made.fingerprint)
    target = made.folder / "store"

    def ours() -> float:
        with made.bundle.open("rb", buffering=0) as stream:
            seconds = timed(lambda: store.ingest(stream, target, pin))
        shutil.rmtree(target)
        return seconds

    raw_copy(made.bundle, made.folder / "raw")  # reads all of it into the page cache
    us, limit = best(ours, lambda: raw_copy(made.bundle, made.folder / "raw"))
    return at_least("ingest", rate(made.size, us), "sequential copy + fsync",
                    rate(made.size, limit), (limit / us, 0.85))  # fmt: skip


def create(folder: Path) -> Iterator[Row]:
    """Compare creating a bundle from a real registry with skopeo to a layout, and tar of that."""
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
        bundle, peaks, sizes = folder / "b.tar", [0.0], [0]

        def ours() -> float:
            os.sync()
            bundle.unlink(missing_ok=True)
            seconds, peak = keystone(folder, *words)
            peaks.append(peak)
            sizes.append(bundle.stat().st_size)
            return seconds

        def peer() -> float:
            seconds = timed(lambda: skopeo(folder, mirror.registry, refs))
            (folder / "layout.tar").unlink()
            shutil.rmtree(folder / "layout")
            return seconds

        us, them, limit = best(ours, peer, lambda: raw_copy(bundle, folder / "raw"), rounds=3)
    size = sizes[-1]
    yield at_least(f"create, {len(refs)} images, {size / 1e9:.1f} GB", f"{us:.1f} s",
                   "skopeo copy, tar, sync", f"{them:.1f} s", (them / us, 3))  # fmt: skip
    yield at_least("create", rate(size, us), "sequential copy + fsync", rate(size, limit),
                   (limit / us, 0.85))  # fmt: skip
    yield at_most("memory, create, from a registry", max(peaks), 96, "MiB")


def skopeo(folder: Path, registry: str, refs: list[str]) -> None:
    """Do what packagers do without Keystone; sync the tar, as Keystone does."""
    for ref in refs:
        name = ref.rpartition("/")[2].replace(":", "-")
        run("skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{registry}/{ref}",
            f"oci:{folder / 'layout'}:{name}")  # fmt: skip
    run("tar", "-C", folder, "-cf", folder / "layout.tar", "layout")
    run("sync", folder / "layout.tar")
