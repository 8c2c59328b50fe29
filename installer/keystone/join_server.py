"""The join API of a Primer: POST /v1/join over TLS, answered with all that a worker is told.

`answer` decides; the rest is HTTP with limits: size, time, number of connections, failed attempts.
"""

from __future__ import annotations

import http.server
import importlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from keystone import join, log
from keystone.errors import KeystoneError
from keystone.inventory import Context
from keystone.site import Node

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.join_config import Config

WORKER_ROLES = ("packages", "names", "time", "kernel", "containerd", "endpoint", "node")
"""The roles of playbooks/worker.yml, in its order."""
BODY_LIMIT = 16 * 1024
CONNECTIONS = 64
IO_SECONDS = 60.0


@dataclass
class Service:
    """What requests are answered from. roles: the worker's; clock: seconds since 1970.

    kubernetes_ca: PEM text of the CA of API servers.
    """

    config: Config
    tokens: join.Tokens
    mint: Callable[[], join.Bootstrap]
    kubernetes_ca: str
    roles: tuple[str, ...] = WORKER_ROLES
    clock: Callable[[], float] = time.time
    failures: join.Failures = field(default_factory=join.Failures)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: bytes, address: str) -> dict[str, object]:
        """The answer to one request. Raises join.Refusal, HostError when kubeadm fails."""
        now = self.clock()
        with self.lock:
            self.failures.check(address, now)
        try:
            request = self._admit(body, IPv4Address(address), int(now))
        except join.Refusal:
            with self.lock:
                self.failures.note(address, now)
            raise
        bootstrap = self.mint()
        roles = worker_roles(self.config, request.hostname, IPv4Address(address), self.roles)
        roles["node"].update(bootstrap.variables())
        roles["endpoint"]["endpoint_ca"] = self.kubernetes_ca
        return {
            "roles": roles,
            "blobs": blobs(self.config, roles),
            "primers": list(join.addresses(self.config.site)),
            "trial": self.config.site.trial,
        }

    def _admit(self, body: bytes, address: IPv4Address, now: int) -> join.Request:
        """Everything is checked before the token is used up."""
        request = join.parse_request(body)
        join.judge(self.tokens.find(request.token.id), request, role="worker", now=now)
        join.judge_place(self.config.site, request, address)
        join.judge_claim(self.tokens.claim(request, now), request)
        return request


def worker_roles(
    config: Config, hostname: str, address: IPv4Address, roles: tuple[str, ...] = WORKER_ROLES
) -> dict[str, dict[str, object]]:
    """Each role's variables for that machine, without `<role>_inputs`."""
    host = Node(hostname, address, control_plane=False)
    context = Context(site=config.site, host=host, bundle=config.bundle)
    return {
        role: importlib.import_module(f"keystone.inventory.{role}").variables(context)
        for role in roles
    }


def blobs(config: Config, roles: Mapping[str, object]) -> list[dict[str, object]]:
    """The blobs that the variables name by path: what the worker has to fetch first."""
    items = {item.path: item for item in config.bundle.items}
    wanted = dict.fromkeys(path for path in _texts(roles) if path in items)
    return [
        {"sha256": item.digest.hex, "size": item.size, "name": item.name}
        for item in (items[path] for path in wanted)
    ]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


class Server(http.server.ThreadingHTTPServer):
    """HTTPS with the handshake in the connection's own thread, and a bound on threads."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], service: Service, context: ssl.SSLContext) -> None:
        super().__init__(address, _Handler)
        self.service = service
        self._context = context
        self._room = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 socketserver's
        """Drop the connection when there are too many: the worker tries again."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 socketserver's
        """Handshake, handle, and give the place back."""
        try:
            request.settimeout(IO_SECONDS)
            with self._context.wrap_socket(request, server_side=True) as secured:
                self.finish_request(secured, client_address)
        except OSError as error:
            log.info(f"{client_address[0]}: {error}")
        finally:
            self.shutdown_request(request)
            self._room.release()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"
    server_version, sys_version = "keystone-join", ""
    timeout = IO_SECONDS

    def do_GET(self) -> None:
        """Health, for people and probes."""
        known = self.path == "/v1/health"
        self._reply(
            HTTPStatus.OK if known else HTTPStatus.NOT_FOUND,
            {"status": "ok"} if known else {"error": "no such thing"},
        )

    def do_POST(self) -> None:
        """A machine wants to join."""
        peer = self.client_address[0]
        try:
            answer = self.server.service.answer(self._body(), peer)
        except join.Refusal as refusal:
            log.info(f"{peer}: refused, {refusal.status}: {refusal.text}")
            self._reply(refusal.status, {"error": refusal.text})
        except KeystoneError as error:
            log.error(f"{peer}: {error.message}")
            self._reply(503, {"error": "the Primer cannot admit workers now; its journal says why"})
        else:
            log.info(f"{peer}: admitted")
            self._reply(200, answer)

    def _body(self) -> bytes:
        if self.path != "/v1/join":
            raise join.Refusal(404, "no such thing")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise join.Refusal(411, "Content-Length is missing")
        if int(length) > BODY_LIMIT:
            raise join.Refusal(413, f"more than {BODY_LIMIT} bytes")
        return self.rfile.read(int(length))

    def _reply(self, status: int, value: Mapping[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 the base's names
        """The base prints every request; `answer`'s outcome is what matters."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with the site certificate and its chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def serve(server: Server) -> None:
    """Answer until the process is ended."""
    host, port = server.server_address[:2]
    log.info(f"answering joining workers on {host!s}:{port}")
    try:
        server.serve_forever()
    finally:
        server.server_close()
