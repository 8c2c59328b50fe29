"""helm as a process, in a folder of its own and with no way to the network.

helm decides what only helm can decide: which version a constraint means, what a chart renders to,
whether provenance is valid, what belongs into a package. What it works on was fetched by us.
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
"""CVE-2025-32386, -32387, -53547, -55199: what a chart could do to older ones."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there: values.schema.json can name URLs, which helm would ask for."""
REMOTE_SCHEMA = 'failing loading "http'
"""How helm says that it asked NOWHERE for a part of a schema."""
RENDER_SECONDS = 300
INSTALL = "https://helm.sh/docs/intro/install, or KEYSTONE_PATH=<its folder>:$PATH"


@dataclass(frozen=True)
class Helm:
    """A usable helm. scratch: an empty folder that nothing else uses. program: name or path."""

    scratch: Path
    program: str | Path = "helm"

    def choose(self, constraint: str, versions: Sequence[str]) -> str | None:
        """The version that a constraint means, as `helm pull --version` takes it; None for none.

        constraint: Masterminds SemVer ("^1.2", ">=1 <2"); "" is the newest that is no pre-release.
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
                f"{constraint!r} is no constraint on versions: {error.message}",
                hint='see https://github.com/Masterminds/semver: "^1.2", "~1.2.3", ">=1.2 <2"',
            ) from error
        found = json.loads(done.stdout)
        return str(found[0]["version"]) if found else None

    def package(self, folder: Path) -> bytes:
        """What `helm package` makes of a chart's folder: .helmignore and checks are helm's."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as out:
            self.run("package", folder, "--destination", out)
            (made,) = Path(out).glob("*.tgz")
            return made.read_bytes()

    def template(
        self, chart: Path, release: str, words: Sequence[str | Path], *, crds: bool = True
    ) -> str:
        """All that a packed chart makes, hooks and tests too."""
        argv = ["template", release, chart, *words, *(["--include-crds"] if crds else [])]
        try:
            return self.run(*argv).stdout
        except run.CommandError as error:
            if REMOTE_SCHEMA not in error.message:
                raise
            log.warn(f"{release}: the schema of its values is partly elsewhere; they go unchecked")
            log.warn(f"{release}: inside, helm needs --skip-schema-validation")
            return self.run(*argv, "--skip-schema-validation").stdout

    def verify(self, packed: Path, keyring: Path) -> str:
        """The fingerprint of the key that signed packed's .prov. Raises CommandError when none."""
        said = self.run("verify", packed, "--keyring", keyring).stdout
        match = re.search(r"Fingerprint:\s*([0-9A-Fa-f]{16,64})", said)
        return match[1].upper() if match else ""

    def run(self, *words: str | Path) -> run.Result:
        """helm, told nothing of this machine's repositories, plugins and clusters."""
        homes = {
            f"HELM_{name}_HOME": str(self.scratch / name.lower())
            for name in ("CACHE", "CONFIG", "DATA")
        }
        closed = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
        return run.run(
            [self.program, *words],
            env={**homes, **closed, "KUBECONFIG": "/dev/null"},
            cwd=self.scratch,
            timeout=RENDER_SECONDS,
        )


@contextmanager
def opened(program: str | Path = "helm") -> Iterator[Helm]:
    """A helm for a while. Raises ConfigurationError when there is none, or an old one."""
    with tempfile.TemporaryDirectory(prefix="keystone-helm-") as folder:
        helm = Helm(Path(folder), program)
        try:
            said = helm.run("version", "--template", "{{.Version}}").stdout
        except run.CommandError as error:
            raise ConfigurationError(
                f"charts are read by helm, and there is none: {error.message}", hint=INSTALL
            ) from error
        match = re.match(r"v(\d+)\.(\d+)\.(\d+)", said)
        if match is None or tuple(map(int, match.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise ConfigurationError(
                f"helm {said}: charts from elsewhere are safe to read from {oldest} on",
                hint=INSTALL,
            )
        yield helm
