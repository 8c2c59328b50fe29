"""The only door to the network: things by their upstream address, wherever they come from.

`mirrors:` rewrites an upstream's address ("https://dl.k8s.io" or a registry's name) to another.
What has no digest yet must come over TLS or from loopback; what has one may come from anywhere.
How to ask is in http.py, with what credentials in registry_auth.
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
HINT_CHANGED = "upstream changed, or the mirror is wrong: lock again, look at what changed"


@dataclass
class Sources:
    """Where things come from, and how.

    mirrors: upstream prefix, registry or registry/namespace to address. ca_file: authorities
    (PEM) besides the machine's own. token_servers: registry to the token server that may see its
    credentials.
    """

    mirrors: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    token_servers: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep

    @cached_property
    def client(self) -> Client:
        """The HTTP client, made when the first thing is asked for."""
        from keystone.packager.sources.http import Client  # noqa: PLC0415 slow to import

        return Client(self.ca_file, self.token_servers, self.pause)

    def rewrite(self, url: str) -> str:
        """The address that stands for an upstream URL: the longest matching mirror wins."""
        for prefix in sorted(self.mirrors, key=len, reverse=True):
            bare = prefix.rstrip("/")
            if "://" in bare and (url == bare or url.startswith(bare + "/")):
                return self.mirrors[prefix].rstrip("/") + url[len(bare) :]
        return url

    def upstream(self, address: str) -> str:
        """The other way: the upstream URL that a mirror's address stands for."""
        for prefix, mirror in sorted(self.mirrors.items(), key=lambda pair: -len(pair[1])):
            bare = mirror.rstrip("/")
            if "://" in prefix and (address == bare or address.startswith(bare + "/")):
                return prefix.rstrip("/") + address[len(bare) :]
        return address

    def registry(self, host: str, repository: str) -> str:
        """The distribution API's address of a repository, without the last part."""
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
        """A small thing, at most `limit` bytes. Refuses plain HTTP when it has no digest yet."""
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
        """`read`, and the Link header that came with it."""
        address = self.rewrite(url)
        if digest is None:
            require_private(address)
        data, cursor = bytearray(), Cursor(address)
        for chunk, now in self._whole(address, headers or {}):
            if now is not cursor:
                cursor = now
                data.clear()
            data += chunk
            if len(data) > limit:
                raise WrongContentError(f"{address}: more than {limit} bytes")
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and found != digest.hex:
            raise WrongContentError(
                f"{address}: has the digest sha256:{found} and should have {digest}",
                hint=HINT_CHANGED,
            )
        return bytes(data), cursor.link

    def digest_of(self, url: str) -> tuple[Digest, int]:
        """Download a thing that has no digest yet, only to name it. Refuses plain HTTP."""
        address = self.rewrite(url)
        require_private(address)
        seen, cursor = hashlib.sha256(), Cursor(address)
        for chunk, now in self._whole(address, {}):
            if now is not cursor:
                seen, cursor = hashlib.sha256(), now
            seen.update(chunk)
        return Digest(seen.hexdigest()), cursor.done

    def size_of(self, url: str, digest: Digest) -> int:
        """Content-Length by HEAD, or by GET where HEAD is refused (addresses signed for GET alone).

        A server that does not tell (archives that are packed while they are sent) is read to the
        end. Raises SourceError, WrongContentError when that has another digest.
        """
        address = self.rewrite(url)
        for method in ("HEAD", "GET"):
            try:
                with closing(self.client.ask(method, address, {})) as answer:
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
        """The bytes of a thing whose digest is known. size: None for as many as come.

        Raises WrongContentError, naming both, when they are not its; what was yielded until then
        is to be thrown away.
        """
        address = self.rewrite(url)
        seen = hashlib.sha256()
        cursor = Cursor(address, size)
        for chunk in self.client.download(cursor, headers or {}):
            seen.update(chunk)
            yield chunk
        if seen.hexdigest() != digest.hex:
            raise WrongContentError(
                f"{address}: has the digest sha256:{seen.hexdigest()} and should have {digest}",
                hint=HINT_CHANGED,
            )

    def _whole(self, address: str, headers: Mapping[str, str]) -> Iterator[tuple[bytes, Cursor]]:
        """Chunks of a thing that no digest will judge; a new cursor means: from the start again."""
        for _ in range(backoff.ATTEMPTS):
            cursor = Cursor(address, known=False)
            yield b"", cursor
            try:
                for chunk in self.client.download(cursor, headers):
                    yield chunk, cursor
            except ChangedError as error:
                log.debug(f"{error.message}; from its start again")
            else:
                return
        raise SourceError(f"{address}: changed each time while it was read")


def local_file(source: str, base: Path) -> Path | None:
    """The path of a "local:" source, relative to the lock's folder; None for any other."""
    kind, _, rest = source.partition(":")
    return base / rest if kind == "local" else None
