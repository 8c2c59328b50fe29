"""The same lock gives the same bits, independent of builder, place and time.

KEYSTONE_BUILDS is the number of builds (2 by default; a build of three formats takes minutes).
Packages and kernel modules come from the cache; everything else is built each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from keystone.packager.sources import cache
from keystone.run import CommandError, run

from .bench import KEYSTONE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.images, pytest.mark.timeout(36000)]
BUILDS = int(os.environ.get("KEYSTONE_BUILDS", "2"))
FORMATS = ("iso", "raw", "qcow2")
KEPT = ("blobs", "modules", "apt", "patches")
REPORT = 50_000
"""Largest output of diffoscope in bytes."""
PLACES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham")
LANGUAGES = ("C", "C.UTF-8", "tr_TR.UTF-8")
UMASKS = ("0022", "0077", "0002")


def test_every_build_has_same_bits(tmp_path: Path) -> None:
    lock = tmp_path / "image.lock.json"
    first = tree(tmp_path / "first")
    run([*KEYSTONE, "image", "lock", first / "images/primer"], cwd=first, timeout=1800)
    shutil.copyfile(first / "images/primer" / lock.name, lock)
    seen: dict[str, set[str]] = {kind: set() for kind in FORMATS}
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(BUILDS):
        folder = tmp_path / ("x" * (number * 7 + 1))
        folder.mkdir()
        with in_memory(folder, wanted=number % 2 == 1):
            for kind, output in builds(folder, lock, number):
                with output.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest not in seen[kind]:
                    shutil.copyfile(output, kept / f"{number + 1}.{kind}")
                seen[kind].add(digest)
                print(f"build {number + 1}: {kind} {digest}", flush=True)
            run(["rm", "-rf", "--one-file-system", *folder.iterdir()])
    differing = [kind for kind, digests in seen.items() if len(digests) > 1]
    assert not differing, "\n".join(explained(kind, kept) for kind in differing)


def explained(kind: str, kept: Path) -> str:
    """The differences of the first two files of a format, by diffoscope(1)."""
    pair = sorted(kept.glob(f"*.{kind}"))[:2]
    if not shutil.which("diffoscope"):
        return f"{kind}: install diffoscope-minimal and squashfs-tools, and compare {pair}"
    words = ["diffoscope", "--text", "-", "--max-text-report-size", str(REPORT), *pair]
    try:
        return f"{kind}:\n{run(words, check=False, timeout=3600).stdout}"
    except CommandError as error:
        return f"{kind}: compare {pair}: {error}"


def builds(folder: Path, lock: Path, number: int) -> Iterator[tuple[str, Path]]:
    """Build each format from this lock, with another user, host name, time zone and so on."""
    there = tree(folder / "tree")
    shutil.copyfile(lock, there / "images/primer" / lock.name)
    caches = folder / "cache/keystone"
    caches.mkdir(parents=True)
    for kept in KEPT:
        (caches / kept).symlink_to(cache.root() / kept)
    env = {
        "XDG_CACHE_HOME": str(folder / "cache"), "TZ": PLACES[number % len(PLACES)],
        "LC_ALL": LANGUAGES[number % len(LANGUAGES)], "KEYSTONE_JOBS": str(1 + number % 4),
        "PYTHONPATH": str(there / "installer"), "USER": f"builder{number}",
    }  # fmt: skip
    host = f'hostname builder{number}; umask {UMASKS[number % len(UMASKS)]}; exec "$@"'
    for kind in FORMATS:
        output = folder / f"image.{kind}"
        run(
            ["unshare", "--uts", "sh", "-c", host, "sh", sys.executable, "-m", "keystone",
             "image", "build", there / "images/primer", "--format", kind, "-o", output],
            cwd=there, env=env, timeout=3600,
        )  # fmt: skip
        yield kind, output


@contextmanager
def in_memory(folder: Path, *, wanted: bool) -> Iterator[None]:
    """Mount a tmpfs, which lists newest files first, unlike a disk."""
    if wanted:
        run(["mount", "-t", "tmpfs", "-o", "size=8g,mode=0755", "builds", folder])
    try:
        yield
    finally:
        if wanted:
            run(["umount", folder])


def tree(folder: Path) -> Path:
    """Copy the repository, as it is now, to a folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    listed = run(["git", "ls-files", "-z"], cwd=ROOT).stdout.split("\0")
    for name in filter(None, sorted(listed, reverse=True)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder
