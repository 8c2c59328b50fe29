"""Build the installer: one executable file that needs only the host's Python >= 3.11.

shiv packs one site-packages tree (zipapp, PEP 441) with the wheels for every CPython we support.
Pure Python files are the same for all versions, and the names of extension modules contain the
interpreter's tag (PEP 3149), so the versions share one tree. Our own wheel contains the roles and
playbooks, and in `share` the man page and completions, which image builds unpack.

A lock names the executable `built:installer@<day>`. The day is its build floor, which is set when
these sources are first locked, so the same lock gives the same executable on any machine. When a
packed executable makes a bundle, the bundle carries that executable.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from datetime import date
from pathlib import Path

import keystone
from keystone import log, run
from keystone.bundle.model import Digest
from keystone.bundle.trust import build_floor
from keystone.errors import ConfigurationError, UsageError
from keystone.files import settle
from keystone.packager.sources import cache

SOURCE = "built:installer"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
EPOCH = "1767225600"
"""2026-01-01: the mtime of every file in the executable, so that builds are reproducible."""
UNUSED = ("ansible_test", "ansible/galaxy/data", "bin")
"""Parts of our dependencies that no installation runs."""


def source(day: date) -> str:
    """Return the name in a lock of the executable with this build floor."""
    return f"{SOURCE}@{day.isoformat()}"


def for_lock(previous: tuple[str, Digest] | None, today: date) -> tuple[Path, str]:
    """Return the executable and its source for a new lock.

    previous: source and digest in the lock before. The day stays the same while that source still
    gives that digest.
    """
    if previous is not None:
        path = executable(previous[0])
        if file_digest(path) == previous[1]:
            return path, previous[0]
    if _packed() is not None:
        return executable(""), source(build_floor.build_floor().date())
    return executable(source(today)), source(today)


def executable(source: str) -> Path:
    """Return the executable, building it if needed.

    source: as in a lock; without a day, the build floor is that of a checkout. Raises
    ConfigurationError when this code is neither a checkout nor a packed executable.
    """
    if (own := _packed()) is not None:
        return own
    checkout = Path(keystone.__file__).resolve().parents[2]
    if not (checkout / "requirements.lock").is_file():
        raise ConfigurationError(
            f"{checkout}: not a checkout of Keystone, so its executable cannot be built",
            hint="run keystone-install from a checkout, or the packed executable itself",
        )
    _, _, text = source.partition("@")
    try:
        day = date.fromisoformat(text) if text else build_floor.CHECKOUT
    except ValueError as error:
        raise ConfigurationError(
            f"{source}: no valid date after @: {error}",
            hint="lock again: keystone-install bundle lock",
        ) from error
    return build(checkout, cache.root(), day)


def file_digest(path: Path) -> Digest:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def _packed() -> Path | None:
    """Return the packed executable that this process runs from; None in a checkout."""
    own = Path(sys.argv[0])
    return own.resolve() if own.is_file() and zipfile.is_zipfile(own) else None


def build(checkout: Path, kept: Path, day: date) -> Path:
    """Return the executable for a checkout, from the cache when its inputs are unchanged.

    kept: the cache folder. day: the build floor; the executable rejects a clock before it.
    Raises UsageError outside a source tree, CommandError when pip cannot get a wheel.
    """
    lock = checkout / "requirements.lock"
    if not lock.is_file():
        raise UsageError(
            f"{lock}: does not exist", hint="build the installer from a Keystone source tree"
        )
    target = kept / "installer" / key(checkout, day) / "keystone-install"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.step("installer executable: build"),
        tempfile.TemporaryDirectory(dir=kept / "installer") as scratch,
    ):
        tree = Path(scratch) / "site-packages"
        shutil.copytree(_dependencies(lock, kept), tree)
        _add_ourselves(checkout, tree, Path(scratch))
        build_floor.write(tree / "keystone", day)
        _normalize(tree)
        half = Path(scratch) / "keystone-install"
        run.run(
            [sys.executable, "-m", "shiv", "--site-packages", tree, "-e", "keystone.cli:main",
             "-p", "/usr/bin/env python3", "--reproducible", "-o", half],
            env={"SOURCE_DATE_EPOCH": EPOCH},
        )  # fmt: skip
        half.chmod(0o755)
        settle(half, target)
    return target


def key(checkout: Path, day: date) -> str:
    """Return a hash over all inputs of the executable."""
    digest = hashlib.sha256(f"{PYTHONS}{PLATFORMS}{EPOCH}{UNUSED}{day}".encode())
    files = [checkout / "pyproject.toml", checkout / "requirements.lock"]
    for top in ("installer", "roles", "playbooks", "share"):
        files += [p for p in (checkout / top).rglob("*") if "__pycache__" not in p.parts]
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(checkout)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _dependencies(lock: Path, kept: Path) -> Path:
    """Return one merged tree of the locked wheels for every Python, cached until they change."""
    text = lock.read_text() + (lock.parent / "pyproject.toml").read_text()
    name = hashlib.sha256(f"{text}{PYTHONS}{PLATFORMS}{UNUSED}".encode()).hexdigest()[:32]
    target = kept / "installer" / f"dependencies-{name}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        half = Path(scratch) / "merged"
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(_pins(lock.read_text()))
        for version in PYTHONS:
            one = Path(scratch) / version
            _install(one, version, [*_requirements(lock.parent), "-c", str(constraints)])
            shutil.copytree(one, half, dirs_exist_ok=True)
        for unused in UNUSED:
            shutil.rmtree(half / unused, ignore_errors=True)
        run.run(["sync", "--file-system", half])
        settle(half, target, synced=True)
    return target


def _requirements(checkout: Path) -> list[str]:
    import tomllib  # noqa: PLC0415 build time only

    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _pins(lock: str) -> str:
    """Return name==version lines: pip's constraints accept neither hashes nor continuations."""
    return "\n".join(re.findall(r"^[A-Za-z0-9._-]+==[^ \\;\n]+", lock, re.MULTILINE)) + "\n"


def _install(target: Path, version: str, words: list[str]) -> None:
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    run.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", target,
         "--only-binary=:all:", "--implementation", "cp", "--python-version", version,
         *platforms, *words],
        timeout=1800,
        env=_pip_environment(),
    )  # fmt: skip


def _add_ourselves(checkout: Path, tree: Path, scratch: Path) -> None:
    run.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch / "wheel"],
        cwd=checkout,
        env={"SOURCE_DATE_EPOCH": EPOCH},
    )
    (wheel,) = (scratch / "wheel").glob("*.whl")
    run.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps",
         "--no-index", "--target", tree, wheel],
        env=_pip_environment(),
    )  # fmt: skip


def _normalize(tree: Path) -> None:
    """Remove differences between builds: pip's records of paths, and modes set by the umask."""
    for name in ("direct_url.json", "RECORD"):
        for path in tree.glob(f"keystone-*.dist-info/{name}"):
            path.unlink()
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _pip_environment() -> dict[str, str]:
    """Return this machine's pip, proxy and TLS variables, which decide where packages come from."""
    kept = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_", "REQUESTS_")
    return {key: value for key, value in os.environ.items() if key.startswith(kept)}
