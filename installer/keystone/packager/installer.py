"""The installer as one executable file that needs nothing but the host's Python >= 3.11.

shiv packs one site-packages tree (zipapp, PEP 441) that holds the wheels for every CPython we
support: pure files are the same in all of them, and extension modules carry the interpreter's tag
in their names (PEP 3149), so they lie side by side. Roles and playbooks ride in our own wheel, and
so do the man page and completions: `share` beside the packages, for those who unpack it (images).

A lock names it `built:installer@<day>`. The day is the executable's build floor, decided when its
sources were first locked: so the same lock gives the same executable on any machine. A bundle that
is made by a packed executable carries that one.
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
from keystone.packager.sources import cache

SOURCE = "built:installer"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
EPOCH = "1767225600"
"""2026-01-01: the time that every file in the executable has, so that bytes repeat."""
UNUSED = ("ansible_test", "ansible/galaxy/data", "bin")
"""Parts of our dependencies that no installation runs."""


def source(day: date) -> str:
    """How a lock names the executable with this build floor."""
    return f"{SOURCE}@{day.isoformat()}"


def for_lock(previous: tuple[str, Digest] | None, today: date) -> tuple[Path, str]:
    """The executable and its source for a new lock.

    previous: source and digest in the lock before. While it is made of the same, it keeps its day.
    """
    if previous is not None:
        path = executable(previous[0])
        if file_digest(path) == previous[1]:
            return path, previous[0]
    if _packed() is not None:
        return executable(""), source(build_floor.build_floor().date())
    return executable(source(today)), source(today)


def executable(source: str) -> Path:
    """The file. Raises ConfigurationError when this code is neither a checkout nor packed.

    source: as a lock has it; without a day in it, the one of this checkout.
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
        raise ConfigurationError(f"{source}: no day in it: {error}", hint="lock again") from error
    return build(checkout, cache.root(), day)


def file_digest(path: Path) -> Digest:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def _packed() -> Path | None:
    """The executable that runs, if it is one."""
    own = Path(sys.argv[0])
    return own.resolve() if own.is_file() and zipfile.is_zipfile(own) else None


def build(checkout: Path, kept: Path, day: date) -> Path:
    """The executable for this checkout, from the cache when its inputs are unchanged.

    kept: the cache. day: its build floor; no clock before it is believed.
    Raises UsageError outside a source tree, CommandError when a wheel cannot be had.
    """
    lock = checkout / "requirements.lock"
    if not lock.is_file():
        raise UsageError(f"{lock}: not there", hint="an installer is built from a source tree")
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
        _forget_where(tree)
        half = Path(scratch) / "keystone-install"
        run.run(
            [sys.executable, "-m", "shiv", "--site-packages", tree, "-e", "keystone.cli:main",
             "-p", "/usr/bin/env python3", "--reproducible", "-o", half],
            env={"SOURCE_DATE_EPOCH": EPOCH},
        )  # fmt: skip
        half.chmod(0o755)
        half.rename(target)
    return target


def key(checkout: Path, day: date) -> str:
    """Names everything that the executable is made of."""
    digest = hashlib.sha256(f"{PYTHONS}{PLATFORMS}{EPOCH}{UNUSED}{day}".encode())
    files = [checkout / "pyproject.toml", checkout / "requirements.lock"]
    for top in ("installer", "roles", "playbooks", "share"):
        files += [p for p in (checkout / top).rglob("*") if "__pycache__" not in p.parts]
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(checkout)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _dependencies(lock: Path, kept: Path) -> Path:
    """One merged tree of the locked wheels for every Python; kept as long as the lock is."""
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
        half.rename(target)
    return target


def _requirements(checkout: Path) -> list[str]:
    import tomllib  # noqa: PLC0415 build time only

    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _pins(lock: str) -> str:
    """name==version lines without hashes and continuation: pip's constraints take no hashes."""
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


def _forget_where(tree: Path) -> None:
    """Drop what differs from build to build: pip's notes of its folder, modes by the umask."""
    for name in ("direct_url.json", "RECORD"):
        for path in tree.glob(f"keystone-*.dist-info/{name}"):
            path.unlink()
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _pip_environment() -> dict[str, str]:
    """Pip's and the proxy's settings of this machine: where packages come from is its business."""
    kept = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_", "REQUESTS_")
    return {key: value for key, value in os.environ.items() if key.startswith(kept)}
