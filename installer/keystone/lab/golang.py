"""Programs built from modules of ours, through the Go module proxy that this machine uses.

Each program is built once for its inputs: the module's files, flags and compiler name its place
in the cache. A build that was cut goes on where Go's own cache stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import PreflightError
from keystone.lab import catalogue
from keystone.run import environment, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystone.lab.catalogue import Program

HOUR = 3600.0
"""Longest patience for one program, in seconds: kube-apiserver took 7 minutes of two cores."""

_PASSED_ON = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOCACHE", "GOMODCACHE",
              "GOTOOLCHAIN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
              "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_CACHE_HOME")  # fmt: skip
"""What a person may have set about where modules come from and are kept (go help environment)."""


def cache_folder() -> Path:
    """Where the lab keeps what it built: $XDG_CACHE_HOME/keystone/lab/upstream."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "keystone" / "lab" / "upstream"


def build(program: Program) -> Path:
    """The program's executable, built unless the cache has it.

    Raises PreflightError without a compiler, CommandError when the build fails.
    """
    folder = catalogue.FOLDER / program.module
    argv, env = _command(program)
    name = key(argv, env, _compiler(program), sources(folder))
    target = cache_folder() / "programs" / name / program.name
    if target.is_file():
        return target
    with log.step(f"build {program.name} {program.version}"):
        made(target, lambda path: run([*argv, path, program.package], env=env, cwd=folder,
                                      timeout=HOUR))  # fmt: skip
    return target


def made(target: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write a temporary file; only a whole one, on disk, gets its final name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{get_ident()}")
    try:
        make(part)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def key(*parts: object) -> str:
    """A short name for everything that decides a result: 16 hex digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sources(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a module's folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _command(program: Program) -> tuple[list[str], dict[str, str]]:
    """The compiler's arguments up to the output's name, and its environment."""
    if program.package.endswith(".c"):
        define = f'-DVERSION="{program.version}"'
        return ["gcc", "-Os", "-Wall", "-Werror", "-static", "-s", define, "-o"], {}
    flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in program.variables.items())]
    if program.cgo:
        flags.append("-extldflags -static")
    argv = [
        *(_go(), "build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
        *("-p", str(os.cpu_count() or 1)),
        *("-tags", ",".join(program.tags)),
        *("-ldflags", " ".join(flags)),
        "-o",
    ]
    return argv, _environment(cgo=program.cgo)


def _environment(*, cgo: bool) -> dict[str, str]:
    chosen = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = f"{Path(_go()).parent}:{environment()['PATH']}"
    return {**chosen, "PATH": path, "CGO_ENABLED": str(int(cgo)), "GOFLAGS": "", "GOWORK": "off"}


@cache
def _go() -> str:
    """The go command: on the user's PATH, or where its own installer puts it."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not found:
        raise PreflightError(
            "go: no such program", hint="install Go 1.25 or newer: the lab builds Kubernetes"
        )
    return found


def _compiler(program: Program) -> str:
    """Which compilers make the program."""
    c = _c_compiler() if program.cgo or program.package.endswith(".c") else ""
    return c if program.package.endswith(".c") else f"{_go_version()} {c}"


@cache
def _go_version() -> str:
    return run([_go(), "version"], env=_environment(cgo=False)).stdout.strip()


@cache
def _c_compiler() -> str:
    return run(["gcc", "--version"]).stdout.partition("\n")[0]
