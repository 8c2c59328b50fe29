"""Build programs from our Go modules, through the Go module proxy that this machine uses.

Programs are cached by their inputs: the module's files, flags and the compiler. All missing
programs of a module are built by one `go build`, which loads packages once and links one program
while it compiles the next. An interrupted build continues from Go's own cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.errors import PreflightError
from keystone.files import settle
from keystone.lab.mirror import catalogue
from keystone.lockfile import only_one
from keystone.run import environment, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keystone.lab.mirror.catalogue import Program

PATIENCE = 2 * 3600.0
"""Timeout of one module in seconds: Kubernetes took 15 minutes on two idle cores."""

_PASSED_ON = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOCACHE", "GOMODCACHE",
              "GOTOOLCHAIN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
              "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_CACHE_HOME")  # fmt: skip
"""Variables by which a person configures sources and caches of modules (go help environment)."""


def cache_folder() -> Path:
    """The lab's cache of built artefacts: $XDG_CACHE_HOME/keystone/lab/upstream."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "keystone" / "lab" / "upstream"


def build(program: Program) -> Path:
    """Build the program unless cached. Returns the path of its executable.

    Raises PreflightError without a compiler, CommandError if the build fails.
    """
    build_module([program])
    return target(program)


def target(program: Program) -> Path:
    """Path of the program in the cache, whether it is built or not."""
    argv, env = _command(program)
    patch = [asdict(program.patch)] if program.patch else []
    name = key(argv, env, _compiler(program), sources(catalogue.FOLDER / program.module), *patch)
    return cache_folder() / "programs" / name / program.name


def build_module(programs: Sequence[Program]) -> tuple[Program, ...]:
    """Build those programs of one module that are not cached; returns the built ones.

    Raises as `build`.
    """
    if all(target(program).is_file() for program in programs):
        return ()
    module = programs[0].module
    # The hash distinguishes modules in folders outside the catalogue.
    name = f"{Path(module).name}-{key(str(catalogue.FOLDER / module))}"
    work = cache_folder() / "work" / name
    with only_one(work.with_name(f"{name}.lock"), f"building {module}"):
        missing = tuple(program for program in programs if not target(program).is_file())
        if missing:
            _build(missing, work)
    return missing


def _build(programs: Sequence[Program], work: Path) -> None:
    """Build programs together, then give each its final name. work: removed before and after."""
    shutil.rmtree(work, ignore_errors=True)
    out = work / "out"
    out.mkdir(parents=True)
    first = programs[0]
    argv, env = _command(first)
    packages = [program.package for program in programs]
    names = ", ".join(program.name for program in programs)
    with log.step(f"build {names} {first.version}"):
        folder = _staged(first, work)
        if first.package.endswith(".c"):
            run([*argv, out / first.package, *packages], env=env, cwd=folder)
        else:
            run([*argv, f"{out}/", *packages], env=env, cwd=folder, timeout=PATIENCE)
    for program in programs:
        built = out / catalogue.executable_name(program.package)
        made(target(program), built.replace)
    shutil.rmtree(work)


def _staged(program: Program, work: Path) -> Path:
    """The folder to build in: the module's own, or a copy of it with a patched source.

    The copy is needed because go refuses overlays over its module cache, and considers a nested
    module below the path of the package ambiguous.
    """
    folder, patch = catalogue.FOLDER / program.module, program.patch
    if not patch:
        return folder
    env = _environment(cgo=program.cgo)
    stage, source = work / "stage", work / "stage" / "source"
    shutil.copytree(folder, stage)
    shown = run([_go(), "mod", "download", "-json", patch.module], env=env, cwd=folder).stdout
    shutil.copytree(json.loads(shown)["Dir"], source, copy_function=shutil.copyfile)
    for part in [source, *source.rglob("*/")]:  # folders of the module cache are read-only
        part.chmod(0o755)
    if patch.package:
        shutil.rmtree(source / patch.package)
        shutil.copytree(folder / patch.folder, source / patch.package)
    edit = [_go(), "mod", "edit"]
    ours, theirs = (
        json.loads(run([*edit, "-json"], env=env, cwd=place).stdout) for place in (stage, source)
    )
    older = downgraded(ours, theirs)
    words = [f"-require={path}@{version}" for path, version in older.items()]
    if words:
        run([*edit, *words], env=env, cwd=source)
    words += [f"-dropreplace={path}" for path in older]
    run([*edit, f"-replace={patch.module}=./source", *words], env=env, cwd=stage)
    return stage


def downgraded(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """Modules that `theirs` requires and `ours` replaces by another version, with that version.

    ours, theirs: the output of `go mod edit -json`.
    """
    required = {entry["Path"] for entry in theirs["Require"] or ()}
    return {
        entry["Old"]["Path"]: entry["New"]["Version"]
        for entry in ours["Replace"] or ()
        if entry["Old"]["Path"] == entry["New"]["Path"] and entry["Old"]["Path"] in required
    }


def made(target: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write a temporary file, sync it, and give it its final name. Returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{get_ident()}")
    try:
        make(part)
        settle(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def key(*parts: object) -> str:
    """A short hash over all inputs of a result: 16 hex digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sources(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a module's folder, by path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _command(program: Program) -> tuple[list[str], dict[str, str]]:
    """The compiler's arguments before the path of the output, and its environment."""
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


def passed_on() -> dict[str, str]:
    """The environment for child processes: settings of proxies, authorities, caches and Go."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _environment(*, cgo: bool) -> dict[str, str]:
    path = f"{Path(_go()).parent}:{environment()['PATH']}"
    return {
        **passed_on(),
        "PATH": path,
        "CGO_ENABLED": str(int(cgo)),
        "GOFLAGS": "",
        "GOWORK": "off",
    }


@cache
def _go() -> str:
    """The go command, on PATH or in Go's default folders. Raises PreflightError without one."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not found:
        raise PreflightError(
            "the program go is missing", hint="install Go 1.25 or newer: the lab builds Kubernetes"
        )
    return found


def _compiler(program: Program) -> str:
    """Versions of the compilers that build the program."""
    c = _c_compiler() if program.cgo or program.package.endswith(".c") else ""
    return c if program.package.endswith(".c") else f"{_go_version()} {c}"


@cache
def _go_version() -> str:
    return run([_go(), "version"], env=_environment(cgo=False)).stdout.strip()


@cache
def _c_compiler() -> str:
    return run(["gcc", "--version"]).stdout.partition("\n")[0]
