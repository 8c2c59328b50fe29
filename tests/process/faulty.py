"""A real HTTP(S) server on loopback that misbehaves as configured, and records its requests."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """One response. break_after: bytes of the body, after which the connection breaks.

    length: a wrong Content-Length. ranges: whether to support Range. chunked: send with chunked
    transfer coding, without Content-Length (RFC 9112, 7.1). terse: leave the headers out of a
    response to Range.
    """

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    break_after: int | None = None
    length: int | None = None
    ranges: bool = True
    chunked: bool = False
    terse: bool = False


@dataclass(frozen=True)
class Request:
    """A request of a client. when: monotonic seconds."""

    method: str
    path: str
    headers: dict[str, str]
    when: float
    body: bytes = b""


@dataclass
class Faulty:
    """A server's responses by path: each is sent once, in order, and the last one repeatedly."""

    address: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def says(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return f"{self.address}{path}"

    def of(self, path: str, method: str = "GET") -> list[Request]:
        return [one for one in self.requests if (one.path, one.method) == (path, method)]

    def next(self, path: str) -> Answer:
        left = self.answers.get(path)
        if not left:
            return Answer(status=404)
        return left.pop(0) if len(left) > 1 else left[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET  # noqa: N815 the base class defines the names

    def do_CONNECT(self) -> None:
        """Act as a proxy: connect any host to the address in the response's body."""
        self._note()
        host, port = self.faulty.next("CONNECT").body.decode().split(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            up = threading.Thread(target=_pump, args=(self.connection, there), daemon=True)
            up.start()
            _pump(there, self.connection)
        self.close_connection = True

    def _note(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length) if length else b""
        self.faulty.requests.append(
            Request(self.command, self.path, dict(self.headers), time.monotonic(), body)
        )

    def _answer(self) -> None:
        self._note()
        answer = self.faulty.next(self.path.partition("?")[0])
        data, status, span = answer.body, answer.status, ""
        wanted = self.headers.get("Range", "")
        if wanted and answer.ranges and status == 200 and self._same(answer):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            data, status = data[start:], 206
            span = f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}"
        self.send_response(status)
        for name, value in () if span and answer.terse else answer.headers:
            self.send_header(name, value)
        if span:
            self.send_header("Content-Range", span)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        else:
            size = len(data) if answer.length is None else answer.length
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if answer.break_after is None else data[: answer.break_after])
        if answer.break_after is not None or answer.length is not None:
            self.close_connection = True

    def _same(self, answer: Answer) -> bool:
        condition = self.headers.get("If-Range", "")
        return not condition or condition in dict(answer.headers).values()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def serving(*, host: str = "127.0.0.1", tls: Path | None = None) -> Iterator[Faulty]:
    """Run a server while the block runs. tls: a PEM file with key and certificate."""
    found = Faulty()
    handler = type("Handler", (_Handler,), {"faulty": found})
    server = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] clients that leave are expected
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    found.address = f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def self_signed(folder: Path, *names: str) -> tuple[Path, Path]:
    """Write a self-signed certificate; return (key and certificate for a server, certificate)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both, alone = folder / f"{names[0]}-server.pem", folder / f"{names[0]}-ca.pem"
    both.write_bytes(private + pem)
    alone.write_bytes(pem)
    return both, alone


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
