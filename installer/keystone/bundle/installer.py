"""The executable that a bundle carries: one file that needs only the host's Python >= 3.11.

It is a zip application made by shiv from one tree of packages that holds wheels for several
CPython versions: C extensions have the version in their file names, so they live side by side.
At its first start it unpacks itself below the home of who runs it (root's on a host).
Built once for its inputs: the dependencies by their lock, then this checkout's own code.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import keystone
from keystone import run
from keystone.bundle import cache
from keystone.errors import ConfigurationError, KeystoneError

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "linux")
"""Oldest C library first offered last: Debian 12 has 2.36."""
SHEBANG = "/usr/bin/env python3"
ENTRY = "keystone.cli:main"
EPOCH = "1577836800"
"""2020-01-01: the time of every file inside, so that equal inputs are equal bytes."""
LEFT_OUT = ("ansible_test", "bin", "__pycache__")
PASSED = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
          "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # fmt: skip


def version() -> str:
    """The version of the executable."""
    return keystone.__version__


def build() -> Path:
    """The executable for this code, from the cache when it is there.

    Raises ConfigurationError when this code is neither a checkout nor such an executable.
    """
    own = Path(sys.argv[0])
    if zipfile.is_zipfile(own):
        return own.resolve()
    checkout = Path(keystone.__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        raise ConfigurationError(
            f"{checkout}: not a checkout of Keystone, so its executable cannot be built",
            hint="run keystone-install from a checkout, or the executable itself",
        )
    return _from_checkout(checkout)


def _from_checkout(checkout: Path) -> Path:
    code = list(_code(checkout))
    packages = _packages(checkout)
    name = _hash([packages.name.encode(), *_named(code)])
    output = cache.root() / "installer" / f"keystone-install-{name}"
    if output.is_file():
        return output
    work = output.with_name(f"{output.name}.{os.getpid()}.work")
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "site-packages"
    shutil.copytree(packages, tree, copy_function=_link)
    for inside, path in code:
        target = tree / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    _zip(tree, work / "keystone-install")
    (work / "keystone-install").replace(output)
    shutil.rmtree(work)
    return output


def _code(checkout: Path) -> Iterator[tuple[str, Path]]:
    """Our own files as the wheel places them (pyproject.toml, tool.hatch.build)."""
    places = {"installer/keystone": "keystone", "playbooks": "keystone/_data/playbooks",
              "roles": "keystone/_data/roles", "bundles": "keystone/_data/bundles"}  # fmt: skip
    for source, inside in places.items():
        for path in sorted((checkout / source).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{inside}/{path.relative_to(checkout / source)}", path


def _packages(checkout: Path) -> Path:
    """The merged tree of dependencies, by the content of what names them."""
    lock = checkout / "requirements.lock"
    wanted = ["-r", str(lock), "--no-deps"] if lock.exists() else _dependencies(checkout)
    key = lock.read_bytes() if lock.exists() else "\n".join(wanted).encode()
    name = _hash([key, " ".join((*PYTHONS, *PLATFORMS, *LEFT_OUT)).encode()])
    final = cache.root() / "installer" / f"packages-{name}"
    if final.is_dir():
        return final
    work = final.with_name(f"{final.name}.{os.getpid()}.work")
    shutil.rmtree(work, ignore_errors=True)
    for python in PYTHONS:
        _pip(work / python, python, wanted)
    merge([work / python for python in PYTHONS], work / "merged")
    os.sync()
    (work / "merged").replace(final)
    shutil.rmtree(work)
    return final


def _dependencies(checkout: Path) -> list[str]:
    import tomllib  # noqa: PLC0415

    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return [str(name) for name in project["dependencies"]]


def _pip(target: Path, python: str, wanted: Iterable[str]) -> None:
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    run.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--target", target,
            "--python-version", python, "--implementation", "cp", *platforms,
            "--only-binary", ":all:", "--no-compile", "--disable-pip-version-check", *wanted,
        ],
        env=_environment(),
        timeout=1800,
    )  # fmt: skip


def merge(trees: Iterable[Path], output: Path) -> None:
    """Lay trees of packages over each other.

    Packages' own records may differ (the first stays). Raises KeystoneError when a module has two
    contents: then one tree cannot serve both versions.
    """
    for tree in trees:
        for path in sorted(tree.rglob("*")):
            inside = path.relative_to(tree)
            if path.is_dir() or inside.parts[0] in LEFT_OUT or "__pycache__" in inside.parts:
                continue
            target = output / inside
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            elif not inside.parts[0].endswith(".dist-info") and (
                target.read_bytes() != path.read_bytes()
            ):
                raise KeystoneError(
                    f"{inside}: differs between wheels of one package",
                    hint="pin a version whose wheels agree, or drop a Python from PYTHONS",
                )


def _zip(tree: Path, output: Path) -> None:
    run.run(
        [
            sys.executable, "-m", "shiv.cli", "--site-packages", tree, "--entry-point", ENTRY,
            "--python", SHEBANG, "--reproducible", "--output-file", output,
        ],
        env={**_environment(), "SOURCE_DATE_EPOCH": EPOCH},
    )  # fmt: skip


def _environment() -> dict[str, str]:
    """pip's own settings and proxies; everything else stays out."""
    return {key: value for key, value in os.environ.items() if key.startswith(PASSED)}


def _named(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    for inside, path in files:
        yield inside.encode()
        yield path.read_bytes()


def _hash(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:32]


def _link(source: str, target: str) -> str:
    os.link(source, target)
    return target
