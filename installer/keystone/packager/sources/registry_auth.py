"""Answer a 401 with Basic, or with a token from the registry's token server (distribution-spec).

A registry chooses its token server, so a hostile registry can name any server. This module sends
credentials only to the registry's own origin, to Docker Hub's well-known token server, or to one
that the definition names (`tokenServers`). It always requests the scope to pull this repository,
whatever scope the challenge names.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from urllib3.exceptions import HTTPError

from keystone.errors import ConfigurationError, RefusedError, SourceError
from keystone.packager import foreign_json
from keystone.packager.sources import backoff, docker_credentials
from keystone.packager.sources.addresses import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.packager.sources.docker_credentials import Credentials

WELL_KNOWN = {"registry-1.docker.io": "https://auth.docker.io"}
MAX_ANSWER = 1 << 20
MAX_TOKEN = 64 << 10
MAX_ERROR = 16 << 10
MAX_REASON = 300
"""Characters of a registry's error message to print."""
OK = 200


class BusyError(SourceError):
    """A temporary error of a token server.

    why: the reason, without the requested URL. after: its Retry-After header.
    """

    def __init__(self, why: str, after: str) -> None:
        super().__init__(why)
        self.why, self.after = why, after


class _Client(Protocol):
    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> Any: ...  # noqa: ANN401 a requests.Response


@dataclass(frozen=True)
class Challenge:
    """One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1)."""

    scheme: str
    parameters: Mapping[str, str]


def repository(url: str) -> str:
    """Return the repository in a URL of the distribution API; "" for any other URL."""
    match = re.match(r"/v2/(.+)/(?:manifests|blobs|referrers|tags)/", urlsplit(url).path)
    return match[1] if match else ""


def challenges(header: str) -> list[Challenge]:
    """Parse every challenge in the header, with schemes in lower case."""
    found: list[tuple[str, dict[str, str]]] = []
    # Do not match the text between tokens: runs of blanks would take cubic time.
    pattern = r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|([\w-]+)'
    for name, quoted, bare, scheme in re.findall(pattern, header):
        if scheme:
            found.append((scheme.lower(), {}))
        elif found:
            found[-1][1][name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or bare
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def login(registry: Origin) -> str:
    """Return the command that stores credentials where `docker_credentials` finds them."""
    return f"docker login {'docker.io' if registry.name in WELL_KNOWN else registry.name}"


def reason(answer: Any) -> str:  # noqa: ANN401 a requests.Response
    """Return a registry's error message (distribution-spec, "Error Codes") after ": ", or ""."""
    try:
        document = foreign_json.loads(answer.raw.read(MAX_ERROR, decode_content=True))
        words = "; ".join(str(one.get("message") or one["code"]) for one in document["errors"])
    except (HTTPError, OSError, *foreign_json.WRONG):
        return ""
    plain = re.sub(r"[^\x20-\x7e]+", " ", words).strip()[:MAX_REASON]
    return f": {plain}" if plain else ""


def authorization(client: _Client, url: str, header: str, token_servers: Mapping[str, str]) -> str:
    """Return the Authorization header that answers a 401 from `url`.

    header: WWW-Authenticate. Raises SourceError without credentials or a token, BusyError when the
    token server has a temporary error, RefusedError rather than send credentials to another server.
    """
    origin, name = Origin.of(url), repository(url)
    offered = {challenge.scheme: challenge.parameters for challenge in challenges(header)}
    credentials = docker_credentials.find(origin, name)
    if credentials and credentials.bearer:
        return f"Bearer {credentials.bearer}"
    if "bearer" in offered and name:
        return _token(client, origin, name, offered["bearer"], credentials, token_servers)
    if "basic" in offered and credentials:
        return f"Basic {credentials.basic}"
    raise SourceError(
        f"{url}: the server requires credentials", hint=f"{login(origin)}, then run it again"
    )


def check_realm(
    registry: Origin, realm: str, *, credentials: bool, token_servers: Mapping[str, str]
) -> None:
    """Require that this registry may use this token server, with or without credentials.

    Raises SourceError for an unsafe server, RefusedError if it must not get the credentials.
    """
    try:
        server = Origin.of(realm)
    except ConfigurationError as error:
        raise SourceError(f"{registry}: its token server is invalid: {error.message}") from error
    if not server.private or (server.loopback and not registry.loopback):
        raise SourceError(
            f"{registry}: its token server {server} is refused: it has no TLS or is this machine"
        )
    named = token_servers.get(registry.name) or WELL_KNOWN.get(registry.name)
    trusted = {registry, Origin.of(named)} if named else {registry}
    if credentials and server not in trusted:
        raise RefusedError(
            f"{registry}: its credentials would be sent to the token server {server}",
            hint=f"if that is correct, allow it in the definition: "
            f"spec.tokenServers: {{{registry.name}: {server}}}",
        )


def _token(
    client: _Client,
    registry: Origin,
    name: str,
    offered: Mapping[str, str],
    credentials: Credentials | None,
    token_servers: Mapping[str, str],
) -> str:
    realm = offered.get("realm", "")
    check_realm(registry, realm, credentials=credentials is not None, token_servers=token_servers)
    fields = {"scope": f"repository:{name}:pull"}
    if offered.get("service"):
        fields = {"service": offered["service"], **fields}
    if credentials and credentials.identity_token:
        form = {
            **fields,
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "client_id": "keystone-install",
        }
        answer = client.send("POST", realm, {}, form)
    else:
        parts = urlsplit(realm)
        query = "&".join(filter(None, [parts.query, urlencode(fields)]))
        headers = {"Authorization": f"Basic {credentials.basic}"} if credentials else {}
        answer = client.send("GET", urlunsplit(parts._replace(query=query)), headers)
    with closing(answer):
        if answer.status_code in backoff.TRY_AGAIN:
            raise BusyError(
                f"HTTP {answer.status_code} {answer.reason} from its token server "
                f"{Origin.of(realm)}{reason(answer)}",
                answer.headers.get("Retry-After", ""),
            )
        if answer.status_code != OK:
            raise SourceError(
                f"{realm}: HTTP {answer.status_code}: no token for {registry.name}/{name}"
                f"{reason(answer)}",
                hint=f"{login(registry)}, then run it again",
            )
        return f"Bearer {_read_token(realm, answer.raw.read(MAX_ANSWER + 1, decode_content=True))}"


def _read_token(realm: str, data: bytes) -> str:
    try:
        if len(data) > MAX_ANSWER:
            raise ValueError("too long")
        document = foreign_json.loads(data)
        token = str(document.get("token") or document["access_token"])
        if not re.fullmatch(r"[\x21-\x7e]+", token) or len(token) > MAX_TOKEN:
            raise ValueError("not a token")
    except foreign_json.WRONG as error:
        raise SourceError(
            f"{realm}: its response contains no token",
            hint="check what answers at this address, then run it again",
        ) from error
    return token
