"""Steps of a build, each named by the hash of its inputs: what is there is not made again.

A step's folder gets its name when it is whole. Steps build on steps, so a change of one input
makes the steps after it anew and no others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.lockfile import only_one
from keystone.packager.sources import cache
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

KEPT = 30
"""Days. A set of steps is a gigabyte, and each new lock makes all of them anew."""
KEY = 20
"""Hex digits of a step's hash that name it."""


def home() -> Path:
    """Where steps are kept. On one file system: overlayfs, links and renames need that."""
    return cache.root() / "image"


def key(kind: str, *inputs: object) -> str:
    """The name of a step: what it does, and all that decides what comes out. inputs: as JSON."""
    text = json.dumps([kind, *inputs], sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:KEY]}"


def folder_digest(folders: Iterable[Path]) -> str:
    """SHA-256 (hex) of the files in folders: names, executable bits, links and bytes, in order."""
    seen = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = os.fsencode(path.relative_to(folder))
            if path.is_symlink():
                found = b"link " + os.fsencode(path.readlink())
            elif path.is_file():
                found = b"%d " % (path.stat().st_mode & 0o111 != 0)
                found += hashlib.sha256(path.read_bytes()).digest()
            else:
                found = b"folder"
            seen.update(b"%d %s %d %s" % (len(name), name, len(found), found))
    return seen.hexdigest()


def step(name: str, title: str, make: Callable[[Path], None]) -> Path:
    """The folder of this step; `make` fills it when it is not there."""
    folder = home() / name
    with only_one(folder.with_name(f"{name}.lock"), str(folder)):
        if not folder.is_dir():
            with log.step(title), _half(folder) as half:
                make(half)
        os.utime(folder)
    return folder


def sweep(now: float) -> None:
    """Remove steps that no build used for KEPT days. now: seconds since the epoch.

    A step is removed under its own lock, and first loses its name: cut, it is no step any more.
    """
    for folder in sorted(home().glob("*-*")):
        if not folder.is_dir() or now - folder.stat().st_mtime < KEPT * 86400:
            continue
        name = folder.name.removesuffix(".partial")
        with only_one(folder.with_name(f"{name}.lock"), str(folder)):
            half = folder.with_name(f"{name}.partial")
            if folder != half:
                remove(half)
                folder.rename(half)
            remove(half)


@contextmanager
def _half(folder: Path) -> Iterator[Path]:
    half = folder.with_name(f"{folder.name}.partial")
    remove(half)
    half.mkdir(parents=True)
    yield half
    run(["sync", "--file-system", half])
    half.rename(folder)


def remove(folder: Path) -> None:
    """Remove a tree, if it is there. Its mounts were a namespace's own and are gone."""
    if folder.exists():
        shutil.rmtree(folder)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its holes, sharing blocks where that can be, and have it on the disk.

    Raises HostError when the disk does not take it.
    """
    try:
        run(["cp", "--sparse=always", "--reflink=auto", source, target])
        run(["sync", target])
    except CommandError as error:
        raise HostError(error.message, hint="make room, or choose another place") from error
