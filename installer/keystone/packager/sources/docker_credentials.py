"""Credentials that people keep for registries: Docker's and podman's files and their helpers.

containers-auth.json(5), and docker-credential-helpers' protocol: `docker-credential-<name> get`
reads the server's name and prints {"Username", "Secret"}.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import run
from keystone.errors import ConfigurationError
from keystone.packager import foreign_json
from keystone.packager.charts.image_names import HUB, HUB_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.packager.sources.addresses import Origin

HUB_SERVER = "https://index.docker.io/v1/"
NOT_FOUND = "credentials not found"
IDENTITY = "<token>"
"""The user name by which a helper says that its secret is an identity token."""


@dataclass(frozen=True)
class Credentials:
    """What to show: user and password, or an identity token (OAuth2), or a ready bearer token."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """For "Authorization: Basic" (RFC 7617)."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(origin: Origin, repository: str) -> Credentials | None:
    """What is kept for a server, the most particular first. None when nothing is.

    Raises ConfigurationError for a file or a helper that cannot be understood.
    """
    if not origin.private:
        return None  # never in the clear
    host = HUB if origin.name in HUB_NAMES else origin.name
    for path in files(os.environ):
        found = _in_file(path, host, repository, origin.scheme)
        if found is not None:
            return found
    return None


def files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where credentials are kept, in order. REGISTRY_AUTH_FILE stands for all others."""
    if given := environ.get("REGISTRY_AUTH_FILE"):
        return (Path(given),)
    home = Path(environ.get("HOME") or Path.home())
    folders = []
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        folders.append(Path(runtime) / "containers/auth.json")
    folders.append(
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    )
    folders.append(Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    return tuple(folders)


def _in_file(path: Path, host: str, repository: str, scheme: str) -> Credentials | None:
    try:
        document = foreign_json.loads(path.read_bytes())
        auths = dict(document.get("auths") or {})
        helpers = dict(document.get("credHelpers") or {})
        store = str(document.get("credsStore") or "")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *foreign_json.WRONG) as error:
        raise ConfigurationError(f"{path}: not a credential file: {error}") from error
    for key, helper in helpers.items():
        if _host(key) == host:
            return _ask(path, str(helper), host)
    for name in candidates(host, repository):
        for key, entry in auths.items():
            if _host(key) == name and not (key.startswith("http://") and scheme == "https"):
                found = _entry(path, key, entry)
                if found is not None:
                    return found
    return _ask(path, store, host) if store else None


def candidates(host: str, repository: str) -> Iterator[str]:
    """host/a/b, host/a, host: podman's files may name a part of a registry."""
    parts = [host, *filter(None, repository.split("/"))]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _host(key: str) -> str:
    """A key of `auths` as host[:port][/namespace]; Docker's old keys are URLs."""
    scheme, separator, rest = key.partition("://")
    host = rest.partition("/")[0] if separator else scheme.rstrip("/")
    return HUB if host in HUB_NAMES else host


def _entry(path: Path, key: str, entry: Any) -> Credentials | None:  # noqa: ANN401 parsed JSON
    try:
        decoded = base64.b64decode(entry.get("auth") or "", validate=True).decode()
        user, _, password = decoded.partition(":")
        found = Credentials(
            user or str(entry.get("username") or ""),
            password.rstrip("\0") or str(entry.get("password") or ""),
            str(entry.get("identitytoken") or ""),
            str(entry.get("registrytoken") or ""),
        )
    except (ValueError, AttributeError, TypeError) as error:
        # The text of the error could quote the secret.
        raise ConfigurationError(
            f"{path}: auths.{key}: not as docker login writes it", hint=f"docker login {key}"
        ) from error
    return found if found.user or found.identity_token or found.bearer else None


def _ask(path: Path, helper: str, host: str) -> Credentials | None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", helper):
        raise ConfigurationError(f"{path}: {helper!r} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    server = HUB_SERVER if host == HUB else host
    # It is the packager's own program: it needs their session (keyring, cloud profile).
    try:
        done = run.run([program, "get"], data=server, env=os.environ, check=False, timeout=60)
    except run.CommandError as error:
        raise ConfigurationError(
            f"{path}: names the credential helper {helper}: {error.message}",
            hint=f"install {program}, or take {helper} out of credsStore and credHelpers there",
        ) from error
    if done.returncode != 0:
        if NOT_FOUND in done.stdout or NOT_FOUND in done.stderr:
            return None
        raise ConfigurationError(
            f"{program}: exit code {done.returncode} for {server}",
            hint=f"try it by hand: echo {server} | {program} get",
        )
    try:
        answer = foreign_json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except foreign_json.WRONG as error:
        raise ConfigurationError(f"{program}: its answer for {server} is no credential") from error
    if user == IDENTITY:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)
