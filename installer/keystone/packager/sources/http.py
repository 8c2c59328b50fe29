"""The HTTP client: retries, back-off, resumed downloads, proxies, a private CA, credentials.

Credentials are bound to an origin: scheme, host and port. The client follows redirects itself: it
never sends one origin's credentials to another, and never follows from TLS to plain HTTP.
"""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import certifi
import requests  # noqa: TID251 this is the door
import requests.adapters  # noqa: TID251
import urllib3

from keystone import log
from keystone.errors import ConfigurationError, SourceError, StatusError
from keystone.packager.sources import backoff, registry_auth
from keystone.packager.sources.addresses import Origin, follow
from keystone.packager.sources.ranges import OK, PARTIAL, Cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

CHUNK = 1 << 19
TIMEOUT = (20, 120)
"""Seconds to connect, and to wait for data on a connection."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10
UNAUTHORIZED = 401
TOO_MANY = "HTTP 429"
PROGRESS = 1 << 20
"""Bytes; a download that got at least this much since its last retry has all attempts again."""
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    OSError,
)
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Read in addition to OpenSSL's own SSL_CERT_FILE and SSL_CERT_DIR."""


@dataclass
class Client:
    """One client for all threads; each thread has its own connections.

    ca_file: CA certificates to trust in addition to the machine's. token_servers: see
    registry_auth. pause: called to wait, with seconds.
    """

    ca_file: Path | None = None
    token_servers: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep
    _local: threading.local = field(default_factory=threading.local)
    _tokens: dict[tuple[Origin, str], str] = field(default_factory=dict)
    _context: ssl.SSLContext | None = None

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Return a response with status 200 or 206; the caller must close it.

        Retries when the server or its token server is busy, or the connection breaks. Raises
        SourceError.
        """
        attempt = 1
        while True:
            after = ""
            try:
                answer = self._follow(method, url, headers)
            except registry_auth.BusyError as error:
                why, after = error.why, error.after
            except BROKEN as error:
                why = _explain(url, error)
            else:
                if answer.status_code in {OK, PARTIAL}:
                    return answer
                why = f"HTTP {answer.status_code} {answer.reason}{registry_auth.reason(answer)}"
                answer.close()
                if answer.status_code not in backoff.TRY_AGAIN:
                    raise StatusError(f"{url}: {why}", answer.status_code)
                after = answer.headers.get("Retry-After", "")
            self.wait_to_retry(url, why, attempt, backoff.retry_after(after, datetime.now(UTC)))
            attempt += 1

    def download(self, cursor: Cursor, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield all bytes from `cursor` on; resume where a connection broke. Raises SourceError."""
        attempt, last_reset = 1, cursor.done
        while True:
            try:
                yield from self._stream(cursor, headers)
                if cursor.complete:
                    return
                why = f"the connection ended after {cursor.done} of {cursor.size} bytes"
            except BROKEN as error:
                if cursor.size is not None and cursor.complete:
                    return
                why = _explain(cursor.address, error)
            if cursor.done - last_reset >= PROGRESS:
                attempt, last_reset = 1, cursor.done
            self.wait_to_retry(cursor.address, why, attempt)
            attempt += 1

    def wait_to_retry(self, url: str, why: str, attempt: int, after: float | None = None) -> None:
        """Wait before the next attempt. Raises SourceError when this was the last."""
        more = ""
        if why.startswith(TOO_MANY):
            more = f"; logged-in users have higher limits: {registry_auth.login(Origin.of(url))}"
        if attempt >= backoff.ATTEMPTS:
            raise SourceError(
                f"{url}: {why}; failed {attempt} times",
                hint=f"check the connection, then run it again{more}",
            )
        if after is not None and after > backoff.LONGEST_WAIT:
            raise SourceError(
                f"{url}: {why}; the server asks to retry in {log.duration(after)}",
                hint=f"run it again then: it does not fetch complete blobs again{more}",
            )
        seconds = backoff.wait(attempt, after, random.random())  # noqa: S311 spreads clients
        log.debug(f"{url}: {why}; retry in {seconds:.1f} s")
        self.pause(seconds)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request to exactly this URL: without following redirects or credentials."""
        origin = Origin.of(url)
        try:
            return self._session().request(
                method, url, headers=dict(headers), data=data, stream=True, timeout=TIMEOUT,
                allow_redirects=False, proxies=_proxies(url, origin),
            )  # fmt: skip
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise ConfigurationError(f"{url}: {error}") from error

    def _stream(self, cursor: Cursor, headers: Mapping[str, str]) -> Iterator[bytes]:
        with closing(
            self.request("GET", cursor.address, {**headers, **cursor.headers()})
        ) as answer:
            skip = cursor.accept(answer.status_code, answer.headers)
            # Do not decode: a digest is of the published bytes, whatever Content-Encoding says.
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                part = chunk[skip:] if skip else chunk
                skip -= len(chunk) - len(part)
                if part:
                    cursor.take(len(part))
                    yield part

    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        here, origin, own = url, Origin.of(url), True
        for _ in range(MAX_REDIRECTS):
            own = own and Origin.of(here) == origin
            answer = (self._authorized if own else self.send)(method, here, headers)
            location = answer.headers.get("Location", "")
            if answer.status_code not in REDIRECTS or not location:
                return answer
            answer.close()
            here = follow(here, location)
        raise SourceError(f"{url}: more than {MAX_REDIRECTS} redirects")

    def _authorized(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send a request with the origin's known token; answer its challenge once."""
        key = (Origin.of(url), registry_auth.repository(url))
        token = self._tokens.get(key)
        answer = self.send(method, url, {**headers, "Authorization": token} if token else headers)
        if answer.status_code != UNAUTHORIZED:
            return answer
        challenge = answer.headers.get("WWW-Authenticate", "")
        answer.close()
        token = registry_auth.authorization(self, url, challenge, self.token_servers)
        self._tokens[key] = token
        answer = self.send(method, url, {**headers, "Authorization": token})
        if answer.status_code == UNAUTHORIZED:
            words = registry_auth.reason(answer)
            answer.close()
            raise SourceError(
                f"{url}: the server rejects the credentials{words}",
                hint=f"log in again: {registry_auth.login(key[0])}",
            )
        return answer

    def _session(self) -> requests.Session:
        """Return this thread's session: no cookies, no environment variables except proxies."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            session.trust_env = False
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.headers.update(
                {"User-Agent": "keystone-install", "Accept-Encoding": "identity"}
            )
            session.mount("https://", _Adapter(self._tls()))
            self._local.session = session
        return session

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = tls_context(self.ca_file)
        return self._context


class _Session(requests.Session):
    """Ignores redirects: requests prepares the next request even if it shall not follow."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Adapter(requests.adapters.HTTPAdapter):
    """TLS with our own context, also through proxies."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *words: Any, **settings: Any) -> None:  # noqa: ANN401 theirs
        super().init_poolmanager(*words, ssl_context=self._context, **settings)

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:  # noqa: ANN401 theirs
        return super().proxy_manager_for(proxy, ssl_context=self._context, **settings)

    def cert_verify(self, conn: Any, *_: Any) -> None:  # noqa: ANN401 theirs
        """Always verify. The base class would add its own CA certificates to our context."""
        conn.cert_reqs = "CERT_REQUIRED"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Make a context that trusts the machine's CAs and ca_file's. Raises ConfigurationError."""
    found = ssl.get_default_verify_paths()
    context = ssl.create_default_context(
        cafile=None if found.cafile or found.capath else certifi.where()
    )
    names = [os.environ[name] for name in CA_VARIABLES if os.environ.get(name)]
    if ca_file:
        names.append(str(ca_file))
    for name in names:
        try:
            if os.path.isdir(name):  # noqa: PTH112 a name is what it takes
                context.load_verify_locations(capath=name)
            else:
                context.load_verify_locations(cafile=name)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{name}: contains no CA certificates in PEM: {error}",
                hint="give the certificate of the CA that signed the server's certificate",
            ) from error
    return context


def _proxies(url: str, origin: Origin) -> dict[str, str]:
    """Return the proxies of HTTPS_PROXY, HTTP_PROXY, NO_PROXY; never any for this machine."""
    if origin.loopback:
        return {}
    return dict(requests.utils.get_environ_proxies(url))


def _require_name(url: str, error: socket.gaierror) -> None:
    """Raise SourceError when the name server answers that the name does not exist."""
    if error.errno != socket.EAI_AGAIN:
        raise SourceError(
            f"{Origin.of(url)}: its name does not resolve: {error.strerror}",
            hint="check the name and this machine's name server, or set the proxy to use",
        ) from error


def _explain(url: str, error: Exception) -> str:
    """Return the reason of a failure. Raises SourceError when another attempt cannot help."""
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, ssl.SSLCertVerificationError):
            raise SourceError(
                f"{Origin.of(url)}: its certificate is not trusted: {seen.verify_message}",
                hint="give the CA that signed it: --ca-file, or spec.caFile",
            ) from error
        if isinstance(seen, socket.gaierror):
            _require_name(url, seen)
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        reason = getattr(seen, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        seen = inner or getattr(seen, "__cause__", None) or _first(seen)
    return re.sub(r"\s+", " ", str(error))[:300]


def _first(error: BaseException | None) -> BaseException | None:
    words = error.args if error is not None else ()
    return next((word for word in words if isinstance(word, BaseException)), None)
