"""Download resources by their upstream address, possibly through mirrors.

`mirrors:` maps an upstream's address ("https://dl.k8s.io" or a registry's name) to another. Content
whose digest is not known yet must come over TLS or from loopback; with a known digest, it may come
from anywhere. http.py sends the requests; registry_auth adds credentials.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keystone import log
from keystone.bundle.model import Digest
from keystone.errors import SourceError, StatusError, WrongContentError
from keystone.packager.charts.image_names import HUB_NAMES, of_hub
from keystone.packager.sources import backoff
from keystone.packager.sources.addresses import require_private
from keystone.packager.sources.ranges import ChangedError, Cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keystone.packager.sources.http import Client

HUB_API = "registry-1.docker.io"
NO_HEAD = frozenset({400, 403, 404, 405, 501})
HINT_CHANGED = "upstream changed, or the mirror is wrong: lock again and review the changes"


@dataclass
class Sources:
    """Settings for downloads.

    mirrors: upstream prefix, registry or registry/namespace to address. ca_file: CA certificates
    (PEM) to trust in addition to the machine's. token_servers: registry to the token server that
    may receive its credentials. pause: called to wait, with seconds.
    """

    mirrors: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    token_servers: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep

    @cached_property
    def client(self) -> Client:
        """The HTTP client, created on first use."""
        from keystone.packager.sources.http import Client  # noqa: PLC0415 slow to import

        return Client(self.ca_file, self.token_servers, self.pause)

    def rewrite(self, url: str) -> str:
        """Map an upstream URL to its mirror; the longest matching prefix wins."""
        for prefix in sorted(self.mirrors, key=len, reverse=True):
            bare = prefix.rstrip("/")
            if "://" in bare and (url == bare or url.startswith(bare + "/")):
                return self.mirrors[prefix].rstrip("/") + url[len(bare) :]
        return url

    def upstream(self, address: str) -> str:
        """Map a mirror's URL back to the upstream URL."""
        for prefix, mirror in sorted(self.mirrors.items(), key=lambda pair: -len(pair[1])):
            bare = mirror.rstrip("/")
            if "://" in prefix and (address == bare or address.startswith(bare + "/")):
                return prefix.rstrip("/") + address[len(bare) :]
        return address

    def registry(self, host: str, repository: str) -> str:
        """Return the URL of a repository in the distribution API, mapped to its mirror."""
        name = of_hub(f"{host}/{repository}")
        for key in sorted(self.mirrors, key=len, reverse=True):
            prefix = of_hub(key.rstrip("/"))
            if "://" not in key and f"{name}/".startswith(f"{prefix}/"):
                mirror = self.mirrors[key]
                parts = urlsplit(mirror if "://" in mirror else f"https://{mirror}")
                rest = name[len(prefix) :].strip("/")
                path = "/".join(filter(None, (parts.path.strip("/"), rest)))
                return f"{parts.scheme}://{parts.netloc}/v2/{path}"
        api = HUB_API if host in HUB_NAMES else host
        return f"https://{api}/v2/{repository}"

    def read(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        digest: Digest | None = None,
    ) -> bytes:
        """Download at most `limit` bytes and verify `digest`. Refuses plain HTTP without one.

        Raises SourceError, and WrongContentError for other or more bytes.
        """
        data, _ = self.page(url, limit=limit, headers=headers, digest=digest)
        return data

    def page(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        digest: Digest | None = None,
    ) -> tuple[bytes, str]:
        """Download as `read` does; also return the response's Link header."""
        address = self.rewrite(url)
        if digest is None:
            require_private(address)
        data, cursor = bytearray(), Cursor(address)
        for chunk, now in self._restartable(address, headers or {}):
            if now is not cursor:
                cursor = now
                data.clear()
            data += chunk
            if len(data) > limit:
                raise WrongContentError(f"{address}: larger than {limit} bytes")
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and found != digest.hex:
            raise WrongContentError(
                f"{address}: has digest sha256:{found}, expected {digest}",
                hint=HINT_CHANGED,
            )
        return bytes(data), cursor.link

    def digest_of(self, url: str) -> tuple[Digest, int]:
        """Download a file only to find its digest and size in bytes. Refuses plain HTTP."""
        address = self.rewrite(url)
        require_private(address)
        seen, cursor = hashlib.sha256(), Cursor(address)
        for chunk, now in self._restartable(address, {}):
            if now is not cursor:
                seen, cursor = hashlib.sha256(), now
            seen.update(chunk)
        return Digest(seen.hexdigest()), cursor.done

    def size_of(self, url: str, digest: Digest) -> int:
        """Return the size in bytes: Content-Length of HEAD, or of GET if the server refuses HEAD.

        Some URLs are signed for GET only. Without Content-Length (archives that are packed while
        they are sent) it downloads the file. Raises SourceError, and WrongContentError when the
        downloaded file has another digest.
        """
        address = self.rewrite(url)
        for method in ("HEAD", "GET"):
            try:
                with closing(self.client.request(method, address, {})) as answer:
                    length = answer.headers.get("Content-Length", "")
            except StatusError as error:
                if method == "HEAD" and error.status in NO_HEAD:
                    continue
                raise
            if length.isdigit():
                return int(length)
        return sum(map(len, self.fetch(url, digest, None)))

    def fetch(
        self,
        url: str,
        digest: Digest,
        size: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the bytes of a file whose digest is known. size: in bytes, None if unknown.

        Raises WrongContentError with both digests when they differ; discard the yielded bytes then.
        """
        address = self.rewrite(url)
        seen = hashlib.sha256()
        cursor = Cursor(address, size)
        for chunk in self.client.download(cursor, headers or {}):
            seen.update(chunk)
            yield chunk
        if seen.hexdigest() != digest.hex:
            raise WrongContentError(
                f"{address}: has digest sha256:{seen.hexdigest()}, expected {digest}",
                hint=HINT_CHANGED,
            )

    def _restartable(
        self, address: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[bytes, Cursor]]:
        """Yield chunks of a file with unknown digest; a new cursor means a restart from byte 0."""
        for _ in range(backoff.ATTEMPTS):
            cursor = Cursor(address, known=False)
            yield b"", cursor
            try:
                for chunk in self.client.download(cursor, headers):
                    yield chunk, cursor
            except ChangedError as error:
                log.debug(f"{error.message}; restarting from byte 0")
            else:
                return
        raise SourceError(
            f"{address}: changed during each of {backoff.ATTEMPTS} downloads",
            hint="run it again when the file no longer changes",
        )


def local_file(source: str, base: Path) -> Path | None:
    """Return the path of a "local:" source; None for other sources. base: the lock's folder."""
    kind, _, rest = source.partition(":")
    return base / rest if kind == "local" else None
