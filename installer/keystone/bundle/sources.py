"""The only door to the network: HTTP with retry, back-off, resume and mirrors.

`mirrors:` rewrites an upstream's address ("https://dl.k8s.io" or a registry's name) to another.
What has no digest yet must come over TLS or from loopback; what has one may come from anywhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keystone import log
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, KeystoneError

if TYPE_CHECKING:
    import requests  # noqa: TID251 this is the door

CHUNK = 1 << 20
ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time, Retry-After is obeyed up to LAST_WAIT."""
LAST_WAIT = 30.0
TIMEOUT = (20, 120)
"""Seconds to connect, and between two packets."""
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
HTTP_OK, HTTP_PARTIAL = 200, 206
HTTP_UNAUTHORIZED = 401


class SourceError(KeystoneError):
    """An upstream does not give what the definition or the lock asks for."""

    exit_code = 1


@dataclass
class Sources:
    """Where things come from. mirrors: upstream prefix or registry name to address."""

    mirrors: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep
    _session: requests.Session | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    def session(self) -> requests.Session:
        """One session, so that connections are used again."""
        if self._session is None:
            import requests  # noqa: PLC0415, TID251 slow to import; this is the door

            self._session = requests.Session()
            self._session.headers["User-Agent"] = "keystone-install"
        return self._session

    def rewrite(self, url: str) -> str:
        """The address that stands for an upstream URL: the longest matching mirror wins."""
        for prefix in sorted(self.mirrors, key=len, reverse=True):
            bare = prefix.rstrip("/")
            if "://" in bare and (url == bare or url.startswith(bare + "/")):
                return self.mirrors[prefix].rstrip("/") + url[len(bare) :]
        return url

    def registry(self, host: str, repository: str) -> str:
        """The distribution API's address of a repository, without the last part."""
        mirror = self.mirrors.get(host)
        if mirror is None:
            api = "registry-1.docker.io" if host == "docker.io" else host
            return f"https://{api}/v2/{repository}"
        parts = urlsplit(mirror if "://" in mirror else f"https://{mirror}")
        path = "/".join(filter(None, (parts.path.strip("/"), repository)))
        return f"{parts.scheme}://{parts.netloc}/v2/{path}"

    def read(self, url: str, *, limit: int, headers: Mapping[str, str] | None = None) -> bytes:
        """A small thing that has no digest yet, at most `limit` bytes. Refuses plain HTTP."""
        address = self.rewrite(url)
        require_private(address)
        data = bytearray()
        for chunk in self._stream(address, headers or {}, 0):
            data += chunk
            if len(data) > limit:
                raise SourceError(f"{address}: more than {limit} bytes")
        return bytes(data)

    def digest_of(self, url: str) -> tuple[Digest, int]:
        """Download a thing that has no digest yet, only to name it. Refuses plain HTTP."""
        address = self.rewrite(url)
        require_private(address)
        seen, size = hashlib.sha256(), 0
        for chunk in self.download(address, {}):
            seen.update(chunk)
            size += len(chunk)
        return Digest(seen.hexdigest()), size

    def size_of(self, url: str) -> int:
        """Content-Length by HEAD. Raises SourceError when the server does not tell."""
        address = self.rewrite(url)
        answer = self._ask("HEAD", address, {})
        answer.close()
        length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise SourceError(f"{address}: the server does not tell its size")
        return int(length)

    def fetch(
        self, url: str, digest: Digest, size: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """The bytes of a thing whose digest is known; raises SourceError when they are not its."""
        address = self.rewrite(url)
        seen, count = hashlib.sha256(), 0
        for chunk in self.download(address, headers or {}):
            seen.update(chunk)
            count += len(chunk)
            if count > size:
                break
            yield chunk
        if count != size or seen.hexdigest() != digest.hex:
            raise SourceError(
                f"{address}: not the {size} bytes with digest {digest} that the lock names",
                hint="upstream changed, or the mirror is wrong: lock again and look at what changed",
            )

    def download(self, address: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        """All bytes; a connection that breaks is taken up where it broke."""
        done = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for chunk in self._stream(address, headers, done):
                    done += len(chunk)
                    yield chunk
            except OSError as error:
                if attempt == ATTEMPTS:
                    raise SourceError(
                        f"{address}: {error}", hint="check the connection, then run it again"
                    ) from error
                self._wait(attempt, address, str(error))
            else:
                return

    def _stream(self, address: str, headers: Mapping[str, str], start: int) -> Iterator[bytes]:
        extra = {"Range": f"bytes={start}-"} if start else {}
        answer = self._ask("GET", address, {**headers, "Accept-Encoding": "identity", **extra})
        with answer:
            skip = start if start and answer.status_code != HTTP_PARTIAL else 0
            for chunk in answer.iter_content(CHUNK):
                part = chunk[skip:]
                skip -= len(chunk) - len(part)
                if part:
                    yield part

    def _ask(self, method: str, address: str, headers: Mapping[str, str]) -> requests.Response:
        for attempt in range(1, ATTEMPTS + 1):
            answer = self._once(method, address, headers)
            if answer.status_code in {HTTP_OK, HTTP_PARTIAL}:
                return answer
            answer.close()
            if answer.status_code not in TRY_AGAIN or attempt == ATTEMPTS:
                break
            after = answer.headers.get("Retry-After", "")
            self._wait(attempt, address, f"HTTP {answer.status_code}", after)
        raise SourceError(
            f"{address}: HTTP {answer.status_code} {answer.reason}",
            hint="check the name and the mirrors, then run it again",
        )

    def _once(self, method: str, address: str, headers: Mapping[str, str]) -> requests.Response:
        repository = address.partition("/v2/")[2].rpartition("/")[0].rpartition("/")[0]
        key = f"{urlsplit(address).netloc}/{repository}"
        known = {"Authorization": self._tokens[key]} if key in self._tokens else {}
        answer = self.session().request(
            method, address, headers={**headers, **known}, stream=True, timeout=TIMEOUT
        )
        if answer.status_code != HTTP_UNAUTHORIZED or known or "/v2/" not in address:
            return answer
        from keystone.bundle.source_oci import authorization  # noqa: PLC0415 rarely needed

        self._tokens[key] = authorization(self.session(), answer)
        answer.close()
        return self._once(method, address, headers)

    def _wait(self, attempt: int, address: str, why: str, after: str = "") -> None:
        seconds = float(after) if after.isdigit() else FIRST_WAIT * 2 ** (attempt - 1)
        log.debug(f"{address}: {why}; again in {seconds:.1f} s")
        self.pause(min(seconds, LAST_WAIT))


def require_private(address: str) -> None:
    """Refuse plain HTTP, but for loopback. Raises ConfigurationError."""
    parts = urlsplit(address)
    if parts.scheme == "https" or is_loopback(address):
        return
    raise ConfigurationError(
        f"{address}: without TLS anybody on the way could choose its bytes",
        hint="use https, or give its sha256 in the definition",
    )


def is_loopback(address: str) -> bool:
    """Whether a URL points at this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def local_file(source: str, base: Path) -> Path | None:
    """The path of a "local:" source, relative to the lock's folder; None for any other."""
    kind, _, rest = source.partition(":")
    return base / rest if kind == "local" else None
