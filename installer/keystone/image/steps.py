"""Steps of a build, cached under the hash of their inputs.

The folder of a step gets its name when it is complete. Later steps have earlier ones as inputs, so
a changed input repeats only the steps that depend on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.files import made
from keystone.lockfile import only_one
from keystone.packager.sources import cache
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

KEPT = 30
"""Days to keep an unused step. A set of steps takes a gigabyte, and each new lock makes one."""
KEY = 20
"""Hex digits of the hash in the name of a step."""


def home() -> Path:
    """The folder of all steps, on one file system, as overlayfs, links and renames require."""
    return cache.root() / "image"


def key(kind: str, *inputs: object) -> str:
    """The name of a step: its kind and a hash of all inputs that decide its output, as JSON."""
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
    """The folder of a step; if it does not exist, `make` fills it. title: for the log."""
    folder = home() / name
    with only_one(folder.with_name(f"{name}.lock"), str(folder)):
        if not folder.is_dir():
            with log.step(title), made(folder, synced=True) as half:
                make(half)
                run(["sync", "--file-system", half])
        os.utime(folder)
    return folder


def sweep(now: float) -> None:
    """Remove steps that no build used for KEPT days. now: seconds since 1970.

    A step is renamed before it is removed, under its lock, so that an interruption leaves no
    incomplete step.
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


def remove(folder: Path) -> None:
    """Remove a tree if it exists. Its mounts ended with their namespace."""
    if folder.exists():
        shutil.rmtree(folder)


def copy(source: Path, target: Path) -> None:
    """Copy a file sparsely, sharing blocks where possible, and sync it. Raises HostError."""
    try:
        run(["cp", "--sparse=always", "--reflink=auto", source, target])
        run(["sync", target])
    except CommandError as error:
        raise HostError(error.message, hint="free some space, or choose another place") from error
