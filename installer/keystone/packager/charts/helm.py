"""Run helm in its own folder and without network access.

helm resolves version constraints, renders charts, verifies provenance and packs charts, because
only helm defines how these work. Keystone fetches its input.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OLDEST = (3, 18, 5)
"""Older versions are vulnerable to hostile charts: CVE-2025-32386, -32387, -53547, -55199."""
NO_PROXY_THERE = "http://127.0.0.1:9"
"""A proxy that does not exist: helm would download the URLs in a values.schema.json."""
REMOTE_SCHEMA = 'failing loading "http'
"""helm's message when it tried to load a part of a schema through NO_PROXY_THERE."""
RENDER_SECONDS = 300
INSTALL = "install it (https://helm.sh/docs/intro/install), or KEYSTONE_PATH=<its folder>:$PATH"


@dataclass(frozen=True)
class Helm:
    """A usable helm. scratch: an empty folder for it alone. program: name or path."""

    scratch: Path
    program: str | Path = "helm"

    def choose(self, constraint: str, versions: Sequence[str]) -> str | None:
        """Return the version that `helm pull --version` chooses for a constraint; None for none.

        constraint: Masterminds SemVer ("^1.2", ">=1 <2"); "" is the newest, without pre-releases.
        Raises ConfigurationError for an invalid constraint.
        """
        if constraint in versions:
            return constraint
        entries = [
            {"apiVersion": "v2", "name": "chart", "version": version, "urls": ["chart.tgz"]}
            for version in versions
        ]
        index = {"apiVersion": "v1", "entries": {"chart": entries}}
        (self.scratch / "keystone-index.yaml").write_text(json.dumps(index))
        known = self.scratch / "repositories.yaml"
        repository = {"name": "keystone", "url": "https://keystone.invalid"}
        known.write_text(json.dumps({"apiVersion": "v1", "repositories": [repository]}))
        try:
            done = self.run(
                "search", "repo", "keystone/chart", "--version", constraint, "--output", "json",
                "--repository-config", known, "--repository-cache", self.scratch,
            )  # fmt: skip
        except run.CommandError as error:
            raise ConfigurationError(
                f"{constraint!r} is not a version constraint: {error.message}",
                hint='see https://github.com/Masterminds/semver: "^1.2", "~1.2.3", ">=1.2 <2"',
            ) from error
        found = json.loads(done.stdout)
        return str(found[0]["version"]) if found else None

    def package(self, folder: Path) -> bytes:
        """Pack a chart's folder with `helm package`, which applies .helmignore and its checks."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as out:
            self.run("package", folder, "--destination", out)
            (made,) = Path(out).glob("*.tgz")
            return made.read_bytes()

    def template(
        self, chart: Path, release: str, words: Sequence[str | Path], *, crds: bool = True
    ) -> str:
        """Render a packed chart, including hooks and tests. Raises CommandError."""
        argv = ["template", release, chart, *words, *(["--include-crds"] if crds else [])]
        try:
            return self.run(*argv).stdout
        except run.CommandError as error:
            if REMOTE_SCHEMA not in error.message:
                raise
            log.warn(f"{release}: its values are not validated: their schema refers to a URL")
            log.warn(f"{release}: to install it inside, helm needs --skip-schema-validation")
            return self.run(*argv, "--skip-schema-validation").stdout

    def verify(self, packed: Path, keyring: Path) -> str:
        """Verify a packed chart's .prov; return the key's fingerprint. Raises CommandError."""
        text = self.run("verify", packed, "--keyring", keyring).stdout
        match = re.search(r"Fingerprint:\s*([0-9A-Fa-f]{16,64})", text)
        return match[1].upper() if match else ""

    def run(self, *words: str | Path) -> run.Result:
        """Run helm without this machine's repositories, plugins and clusters."""
        homes = {
            f"HELM_{name}_HOME": str(self.scratch / name.lower())
            for name in ("CACHE", "CONFIG", "DATA")
        }
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), NO_PROXY_THERE)
        return run.run(
            [self.program, *words],
            env={**homes, **proxies, "KUBECONFIG": "/dev/null"},
            cwd=self.scratch,
            timeout=RENDER_SECONDS,
        )


@contextmanager
def opened(program: str | Path = "helm") -> Iterator[Helm]:
    """Provide a helm with a scratch folder. Raises ConfigurationError if it is missing or old."""
    with tempfile.TemporaryDirectory(prefix="keystone-helm-") as folder:
        helm = Helm(Path(folder), program)
        try:
            version = helm.run("version", "--template", "{{.Version}}").stdout
        except run.CommandError as error:
            raise ConfigurationError(
                f"reading charts needs helm: {error.message}", hint=INSTALL
            ) from error
        match = re.match(r"v(\d+)\.(\d+)\.(\d+)", version)
        if match is None or tuple(map(int, match.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise ConfigurationError(
                f"helm {version} is too old to read untrusted charts safely: {oldest} is required",
                hint=INSTALL,
            )
        yield helm
