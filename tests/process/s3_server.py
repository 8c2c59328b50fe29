"""A store that speaks the part of S3 that Keystone uses, and checks every signature and digest.

Written from the protocol's description, apart from keystone.backup.s3: path-style addresses,
version 4 of the signature over the headers that the request names, the SHA-256 of the body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET, BUCKET = "AKTEST", "a-secret/with+signs", "backups"
PAGE = 2
"""Keys of one page of a list: small, so that lists have several."""
SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


class Store(ThreadingHTTPServer):
    """objects: by key. corrupt: answer a GET with other bytes than were stored."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.corrupt = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 name of the base class
        """Say nothing."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if key := self._key(body):
            self.server.objects[key] = body
            self._answer(200)

    def do_GET(self) -> None:
        path, query = self._asked()
        if not self._signed(b""):
            return
        if path == f"/{BUCKET}" and query.get("list-type") == "2":
            self._list(query)
            return
        data = self.server.objects.get(path.removeprefix(f"/{BUCKET}/"))
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        self._answer(200, data[:-1] + b"?" if self.server.corrupt else data)

    def do_DELETE(self) -> None:
        if key := self._key(b""):
            self.server.objects.pop(key, None)
            self._answer(204)

    def _list(self, query: dict[str, str]) -> None:
        keys = sorted(
            key
            for key in self.server.objects
            if key.startswith(query["prefix"]) and key > query.get("start-after", "")
        )
        listed = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys[:PAGE])
        more = str(len(keys) > PAGE).lower()
        text = f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{listed}</ListBucketResult>"
        self._answer(200, text.encode())

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return unquote(url.path), dict(parse_qsl(url.query, keep_blank_values=True))

    def _key(self, body: bytes) -> str:
        path, _ = self._asked()
        if not self._signed(body):
            return ""
        if not path.startswith(f"/{BUCKET}/"):
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return ""
        return path.removeprefix(f"/{BUCKET}/")

    def _signed(self, body: bytes) -> bool:
        found = SIGNED.fullmatch(self.headers.get("authorization", ""))
        if (
            found is None
            or self.headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest()
        ):
            self._answer(400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
            return False
        who, day, region, names, signature = found.groups()
        path, query = self._asked()
        listed = [f"{n}:{self.headers[n].strip()}\n" for n in names.split(";")]
        asked = "&".join(
            f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items())
        )
        request = [self.command, quote(path, safe="/-_.~"), asked, "".join(listed), names,
                   self.headers["x-amz-content-sha256"]]  # fmt: skip
        digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
        scope = f"{day}/{region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{digest}"
        key = b"AWS4" + SECRET.encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        if who == KEY and hmac.compare_digest(right, signature):
            return True
        self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        return False

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running() -> Iterator[Store]:
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()
