"""HTTP as a careful client: retry, back-off, resume, proxies, a private CA, bound credentials.

Credentials are bound to scheme, host and port. A redirect is followed by hand: what was said to
one origin is never said to another, and TLS is never left.
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
"""Seconds to connect, and between two packets."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10
UNAUTHORIZED = 401
TOO_MANY = "HTTP 429"
PROGRESS = 1 << 20
"""Bytes; who gave at least so many since it last broke off has all its attempts again."""
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    OSError,
)
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Beside OpenSSL's own SSL_CERT_FILE and SSL_CERT_DIR."""


@dataclass
class Client:
    """One client for all threads; each has connections of its own.

    ca_file: certificates that vouch for servers besides the machine's own. token_servers: see
    registry_auth. pause: waits so many seconds.
    """

    ca_file: Path | None = None
    token_servers: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep
    _local: threading.local = field(default_factory=threading.local)
    _tokens: dict[tuple[Origin, str], str] = field(default_factory=dict)
    _context: ssl.SSLContext | None = None

    def ask(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """An answer with status 200 or 206; the caller closes it.

        Asks again when it or its token server is busy or the connection breaks. Raises SourceError.
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
                why = f"HTTP {answer.status_code} {answer.reason}{registry_auth.said(answer)}"
                answer.close()
                if answer.status_code not in backoff.TRY_AGAIN:
                    raise StatusError(f"{url}: {why}", answer.status_code)
                after = answer.headers.get("Retry-After", "")
            self.again(url, why, attempt, backoff.retry_after(after, datetime.now(UTC)))
            attempt += 1

    def download(self, cursor: Cursor, headers: Mapping[str, str]) -> Iterator[bytes]:
        """All bytes from `cursor` on; a connection that breaks is taken up where it broke."""
        attempt, mark = 1, cursor.done
        while True:
            try:
                yield from self._stream(cursor, headers)
                if cursor.whole:
                    return
                why = f"ended after {cursor.done} of {cursor.size} bytes"
            except BROKEN as error:
                if cursor.size is not None and cursor.whole:
                    return
                why = _explain(cursor.address, error)
            if cursor.done - mark >= PROGRESS:
                attempt, mark = 1, cursor.done
            self.again(cursor.address, why, attempt)
            attempt += 1

    def again(self, url: str, why: str, attempt: int, after: float | None = None) -> None:
        """Wait before the next attempt. Raises SourceError when this was the last."""
        more = ""
        if why.startswith(TOO_MANY):
            more = f"; who is logged in may ask more often: {registry_auth.login(Origin.of(url))}"
        if attempt >= backoff.ATTEMPTS:
            raise SourceError(
                f"{url}: {why}, {attempt} times",
                hint=f"check the connection, then run it again{more}",
            )
        if after is not None and after > backoff.LONGEST_WAIT:
            raise SourceError(
                f"{url}: {why}; the server asks to come back in {log.duration(after)}",
                hint=f"run it again then: what is there is not fetched again{more}",
            )
        seconds = backoff.wait(attempt, after, random.random())  # noqa: S311 spreads clients
        log.debug(f"{url}: {why}; again in {seconds:.1f} s")
        self.pause(seconds)

    def once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """One request to exactly this address: no redirect, no credentials of ours."""
        origin = Origin.of(url)
        try:
            return self._session().request(
                method, url, headers=dict(headers), data=data, stream=True, timeout=TIMEOUT,
                allow_redirects=False, proxies=_proxies(url, origin),
            )  # fmt: skip
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise ConfigurationError(f"{url}: {error}") from error

    def _stream(self, cursor: Cursor, headers: Mapping[str, str]) -> Iterator[bytes]:
        with closing(self.ask("GET", cursor.address, {**headers, **cursor.headers()})) as answer:
            skip = cursor.accept(answer.status_code, answer.headers)
            # The bytes as they are: a digest names what is published, not what a server packed.
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
            answer = (self._authorized if own else self.once)(method, here, headers)
            location = answer.headers.get("Location", "")
            if answer.status_code not in REDIRECTS or not location:
                return answer
            answer.close()
            here = follow(here, location)
        raise SourceError(f"{url}: more than {MAX_REDIRECTS} redirects")

    def _authorized(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Ask with what is known of this origin; answer its challenge once."""
        key = (Origin.of(url), registry_auth.repository(url))
        token = self._tokens.get(key)
        answer = self.once(method, url, {**headers, "Authorization": token} if token else headers)
        if answer.status_code != UNAUTHORIZED:
            return answer
        challenge = answer.headers.get("WWW-Authenticate", "")
        answer.close()
        token = registry_auth.authorization(self, url, challenge, self.token_servers)
        self._tokens[key] = token
        answer = self.once(method, url, {**headers, "Authorization": token})
        if answer.status_code == UNAUTHORIZED:
            words = registry_auth.said(answer)
            answer.close()
            raise SourceError(
                f"{url}: the server does not take the credentials{words}",
                hint=f"log in anew: {registry_auth.login(key[0])}",
            )
        return answer

    def _session(self) -> requests.Session:
        """The session of this thread: nothing of the environment but proxies, no cookies."""
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
    """Sees no redirect: even when told not to follow, theirs prepares the next request."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Adapter(requests.adapters.HTTPAdapter):
    """TLS with our own context, through proxies too."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *words: Any, **settings: Any) -> None:  # noqa: ANN401 theirs
        super().init_poolmanager(*words, ssl_context=self._context, **settings)

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:  # noqa: ANN401 theirs
        return super().proxy_manager_for(proxy, ssl_context=self._context, **settings)

    def cert_verify(self, conn: Any, *_: Any) -> None:  # noqa: ANN401 theirs
        """Always; theirs would load its own authorities into our context for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The machine's authorities and those of ca_file. Raises ConfigurationError."""
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
                f"{name}: no certificates (PEM) to trust in it: {error}",
                hint="give the file of the authority that signed the server's certificate",
            ) from error
    return context


def _proxies(url: str, origin: Origin) -> dict[str, str]:
    """HTTPS_PROXY, HTTP_PROXY, NO_PROXY as everywhere; never for this machine itself."""
    if origin.loopback:
        return {}
    return dict(requests.utils.get_environ_proxies(url))


def _require_name(url: str, error: socket.gaierror) -> None:
    """Raise SourceError where the name server answers that there is no such name."""
    if error.errno != socket.EAI_AGAIN:
        raise SourceError(
            f"{Origin.of(url)}: its name does not resolve: {error.strerror}",
            hint="check the name and this machine's name server, or the proxy that it goes through",
        ) from error


def _explain(url: str, error: Exception) -> str:
    """What to say before the next attempt. Raises SourceError where another one cannot help."""
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, ssl.SSLCertVerificationError):
            raise SourceError(
                f"{Origin.of(url)}: its certificate is not trusted: {seen.verify_message}",
                hint="give the authority that signed it: --ca-file, or spec.caFile",
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
