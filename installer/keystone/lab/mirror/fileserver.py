"""A file server on loopback, with ranges (RFC 9110), for files that upstream publishes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CHUNK = 1 << 18
"""Bytes copied at a time."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve the files now under `root` while the block runs; yields "127.0.0.1:<port>"."""
    files = {f"/{path.relative_to(root)}": path for path in root.rglob("*") if path.is_file()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, files))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, name="fileserver", daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header with one range; None for any other header.

    size: of the file in bytes. Raises ValueError for a range that cannot be satisfied (RFC 9110,
    section 14).
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found[0].endswith("=-"):
        return None
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
    if first > last:
        raise ValueError(f"range {header} of {size} bytes")
    return first, last


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a fixed table of files; no folders, no other files, no access log."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: Mapping[str, Path], *connection: Any) -> None:  # noqa: ANN401 the server's
        self.files = files
        super().__init__(*connection)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.files.get(unquote(urlsplit(self.path).path))
        if path is None:
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        with path.open("rb") as data:
            size = path.stat().st_size
            try:
                part = span(self.headers.get("Range", ""), size)
            except ValueError:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                self._head(status, 0, content_range=f"bytes */{size}")
                return
            first, last = part or (0, size - 1)
            if part:
                where = f"bytes {first}-{last}/{size}"
                self._head(HTTPStatus.PARTIAL_CONTENT, last - first + 1, content_range=where)
            else:
                self._head(HTTPStatus.OK, size)
            if body:
                self._copy(data, first, last - first + 1)

    def _head(self, status: HTTPStatus, length: int, content_range: str = "") -> None:
        self.send_response_only(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _copy(self, data: BinaryIO, first: int, count: int) -> None:
        data.seek(first)
        while count and (chunk := data.read(min(count, CHUNK))):
            self.wfile.write(chunk)
            count -= len(chunk)
