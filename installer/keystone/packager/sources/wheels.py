"""Find Python wheels and their dependencies with pip, for the target's interpreter and platform.

pip's JSON installation report (`pip install --dry-run --report`) lists each wheel's URL and
SHA-256. Source distributions are not accepted: building one would run its code. pip's own
configuration applies, so set the package index there, not in the definition.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from keystone import run
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PASSED_ON = re.compile(
    r"(?i)(PIP_.*|XDG_CONFIG_HOME|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE)"
)
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = (17, 24, 27, 28, 31, 34, 35, 36)
"""Minor versions of glibc 2 for which wheels exist; a platform accepts all up to its own."""


@dataclass(frozen=True)
class Wheels:
    """Requirements for one interpreter. python, glibc: the target's, such as "3.11", "2.36"."""

    requirements: tuple[str, ...]
    python: str
    glibc: str = "2.28"
    group: str = ""


@dataclass(frozen=True)
class Wheel:
    """One wheel that pip chose from an index."""

    name: str
    version: str
    filename: str
    url: str
    digest: Digest


def platforms(architecture: str, glibc: str) -> tuple[str, ...]:
    """Return the values of pip's --platform, the newest first (PEP 600)."""
    machine = MACHINES[architecture]
    newest = int(glibc.partition(".")[2])
    fitting = [minor for minor in reversed(GLIBC) if minor <= newest]
    old = [f"manylinux2014_{machine}"]
    return (*(f"manylinux_2_{minor}_{machine}" for minor in fitting), *old, f"linux_{machine}")


def solve(wheels: Wheels, architecture: str, ca_file: Path | None = None) -> tuple[Wheel, ...]:
    """Return all wheels needed to install the requirements, sorted by file name.

    Raises ConfigurationError with pip's explanation when there is no solution.
    """
    with tempfile.TemporaryDirectory(prefix="keystone-wheels-") as folder:
        report = Path(folder) / "report.json"
        words: list[str | Path] = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
            "--dry-run", "--ignore-installed", "--only-binary=:all:", "--implementation", "cp",
            "--python-version", wheels.python, "--target", f"{folder}/none", "--report", report,
        ]  # fmt: skip
        for name in platforms(architecture, wheels.glibc):
            words += ["--platform", name]
        words += ["--cert", ca_file] if ca_file else []
        done = run.run([*words, "--", *wheels.requirements], env=_environment(), check=False)
        if done.returncode != 0:
            raise ConfigurationError(
                f"pip finds no wheels for {' '.join(wheels.requirements)} (Python {wheels.python}, "
                f"{architecture}):\n{done.stderr.strip()}",
                hint="correct spec.wheels; packages must be published as wheels",
            )
        return tuple(sorted(parse(json.loads(report.read_bytes())), key=lambda one: one.filename))


def parse(report: Mapping[str, Any]) -> Iterator[Wheel]:
    """Parse pip's installation report. Raises SourceError for an entry without a SHA-256."""
    for entry in report["install"]:
        metadata, where = entry["metadata"], entry["download_info"]
        found = where.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        url = _without_password(str(where["url"]))
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        if not found or not re.fullmatch(r"[A-Za-z0-9._+!-]+\.whl", filename):
            raise SourceError(f"{url}: pip reports no wheel with a SHA-256 for it")
        name = re.sub(r"[-_.]+", "-", metadata["name"]).lower()
        yield Wheel(name, metadata["version"], filename, url, Digest(found))


def _without_password(url: str) -> str:
    """Remove user name and password from an index's URL: locks are shared."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
