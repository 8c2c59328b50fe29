"""A file server on loopback, with ranges, for what upstream publishes by URL (RFC 9110)."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, BinaryIO

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 18
"""Bytes copied at a time."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve the files under `root` while the block runs; gives "127.0.0.1:<port>"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(root)))
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
    """First and last byte of a Range header with one range; None where it asks for none.

    Raises ValueError when it cannot be satisfied (RFC 9110, section 14).
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


class _Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of regular files. Folders are not listed: upstream lists none either."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 http.server's name
        log.debug(f"fileserver: {format % args}")

    def _answer(self, *, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as data:
            size = path.stat().st_size
            try:
                part = span(self.headers.get("Range", ""), size)
            except ValueError:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._head(path, part, size)
            if body:
                first, last = part or (0, size - 1)
                self._copy(data, first, last - first + 1)

    def _head(self, path: Path, part: tuple[int, int] | None, size: int) -> None:
        first, last = part or (0, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.end_headers()

    def _copy(self, data: BinaryIO, first: int, count: int) -> None:
        data.seek(first)
        while count and (chunk := data.read(min(count, CHUNK))):
            self.wfile.write(chunk)
            count -= len(chunk)
