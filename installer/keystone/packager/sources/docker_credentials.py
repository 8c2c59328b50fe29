"""Find registry credentials in the files of Docker and podman, and through credential helpers.

See containers-auth.json(5) and the docker-credential-helpers protocol: `docker-credential-<name>
get` reads the server's name from stdin and prints {"Username", "Secret"}.
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
"""The user name with which a helper marks its secret as an identity token."""


@dataclass(frozen=True)
class Credentials:
    """User and password, or an identity token (OAuth2), or a bearer token to use as it is."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value for "Authorization: Basic" (RFC 7617)."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(origin: Origin, repository: str) -> Credentials | None:
    """Find the credentials for a server, the most specific entry first; None without any.

    Raises ConfigurationError for a credential file or a helper's answer that is invalid.
    """
    if not origin.private:
        return None  # never send credentials without TLS
    host = HUB if origin.name in HUB_NAMES else origin.name
    for path in files(os.environ):
        found = _in_file(path, host, repository, origin.scheme)
        if found is not None:
            return found
    return None


def files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the credential files in order. REGISTRY_AUTH_FILE replaces all others."""
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
            return _run_helper(path, str(helper), host)
    for name in candidates(host, repository):
        for key, entry in auths.items():
            if _host(key) == name and not (key.startswith("http://") and scheme == "https"):
                found = _entry(path, key, entry)
                if found is not None:
                    return found
    return _run_helper(path, store, host) if store else None


def candidates(host: str, repository: str) -> Iterator[str]:
    """Yield host/a/b, host/a, host: podman's files may have entries for a part of a registry."""
    parts = [host, *filter(None, repository.split("/"))]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _host(key: str) -> str:
    """Return a key of `auths` as host[:port][/namespace]; Docker's old keys are URLs."""
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
        # Leave out the error's text: it could quote the secret.
        raise ConfigurationError(
            f"{path}: auths.{key}: not a valid entry", hint=f"log in again: docker login {key}"
        ) from error
    return found if found.user or found.identity_token or found.bearer else None


def _run_helper(path: Path, helper: str, host: str) -> Credentials | None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", helper):
        raise ConfigurationError(f"{path}: {helper!r} is not a valid name of a credential helper")
    program = f"docker-credential-{helper}"
    server = HUB_SERVER if host == HUB else host
    # The user configured this program, and it needs their session (keyring, cloud profile).
    try:
        done = run.run([program, "get"], data=server, env=os.environ, check=False, timeout=60)
    except run.CommandError as error:
        raise ConfigurationError(
            f"{path}: uses the credential helper {helper}: {error.message}",
            hint=f"install {program}, or remove {helper} from credsStore and credHelpers there",
        ) from error
    if done.returncode != 0:
        if NOT_FOUND in done.stdout or NOT_FOUND in done.stderr:
            return None
        raise ConfigurationError(
            f"{program}: exit code {done.returncode} for {server}",
            hint=f"run it yourself: echo {server} | {program} get",
        )
    try:
        answer = foreign_json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except foreign_json.WRONG as error:
        raise ConfigurationError(
            f"{program}: its answer for {server} is not a credential"
        ) from error
    if user == IDENTITY:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)
