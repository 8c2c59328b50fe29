"""The join API of a Primer: POST /v1/join; the answer has all that a worker needs.

nginx is in front (roles/join): it terminates TLS and limits size, time and connections. It passes
complete requests to the Unix socket here, which only nginx may open, with the client's address in
ADDRESS_HEADER; it overwrites any such header of the client. `answer` decides; the rest is HTTP.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.ansible.roles import variables
from keystone.cluster.context import Context
from keystone.errors import KeystoneError
from keystone.join import cluster as join_cluster
from keystone.join import tokens as join
from keystone.site.model import Node

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.cluster.join_config import Config
    from keystone.join.cluster import Cluster

WORKER_ROLES = ("packages", "names", "time", "kernel", "containerd", "endpoint", "follow", "node")
"""The roles of playbooks/worker.yml, in its order."""
ADDRESS_HEADER = "X-Keystone-Address"
BODY_LIMIT = 8 * 1024
CONNECTIONS = 64
IO_SECONDS = 60.0
RETRY_SECONDS = 10
"""Retry-After (RFC 9110) of answers that ask the machine to try again later."""


@dataclass
class Service:
    """The state from which requests are answered. roles: those of a worker.

    clock: seconds since 1970, never going back. monotonic: seconds of a clock that cannot be set.
    """

    config: Config
    tokens: join.Tokens
    cluster: Cluster
    roles: tuple[str, ...] = WORKER_ROLES
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    failures: join.Failures = field(default_factory=join.Failures)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counting: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: bytes, address: str) -> dict[str, object]:
        """Answer one request. Raises join.Refusal, and HostError if the cluster fails."""
        request = join.parse_request(body)
        now = self._validated(request)
        where = IPv4Address(address)
        join.require_place(self.config.site, request, where)
        with self.lock:  # only requests with a valid token get here; handle one at a time
            claim = self._admit(request, where, now)
        self._validated(request)  # if the token was revoked meanwhile, do not send the certificate
        roles = worker_roles(self.config, request.hostname, where, self.roles)
        roles["endpoint"]["endpoint_ca"] = claim.authority
        return {
            "roles": roles,
            "blobs": blobs(self.config, roles),
            "primers": list(join.addresses(self.config.site)),
            "trial": self.config.site.trial,
            "address": str(where),
            "identity": {"certificate": claim.certificate, "authority": claim.authority},
        }

    def _validated(self, request: join.Request) -> int:
        """Check the token, and return the time of the check. Raises join.Refusal."""
        now = int(self.clock())
        join.require_valid(self.tokens.find(request.token.id), request, role="worker", now=now)
        return now

    def _admit(self, request: join.Request, address: IPv4Address, now: int) -> join.Claim:
        """Make all checks and reserve the name before the token is marked as used."""
        known = self.tokens.claimed(request.token.id)
        join.require_owner(known, request, address)
        if known is None or not known.certificate:
            known = self._identified(request, address, now)
            self.tokens.claim(request.token.id, known)
        return known

    def _identified(self, request: join.Request, address: IPv4Address, now: int) -> join.Claim:
        """Reserve the name, have the request signed; return the claim with its certificate."""
        claim = join.Claim(request.hostname, now, request.csr.key, str(address))
        try:
            self.cluster.reserve(request.csr, again=self.tokens.owns(request))
            self.tokens.claim(request.token.id, claim)
            # Stops for a revocation before the claim; a later revocation finds the claim.
            self._validated(request)
            identity = self.cluster.sign(request.csr)
        except join_cluster.TakenError as error:
            raise join.Refusal(409, error.message) from error
        return replace(claim, certificate=identity.certificate, authority=identity.authority)

    def failed(self, address: str) -> bool:
        """Count one refusal; return True if that address had too many."""
        with self.counting:
            return self.failures.note(address, self.monotonic())


def worker_roles(
    config: Config, hostname: str, address: IPv4Address, roles: tuple[str, ...] = WORKER_ROLES
) -> dict[str, dict[str, object]]:
    """Return each role's variables for that machine, without `<role>_inputs`."""
    host = Node(hostname, address, control_plane=False)
    context = Context(site=config.site, host=host, bundle=config.bundle)
    return {role: variables(role, context) for role in roles}


def blobs(config: Config, roles: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the blobs whose paths are in the variables: the worker must fetch them first."""
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


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP for nginx only, with a limit on threads. path: the socket, recreated, mode 0660."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, service: Service) -> None:
        path.unlink(missing_ok=True)
        super().__init__(str(path), _Handler)
        path.chmod(0o660)
        self.service = service
        self._slots = threading.BoundedSemaphore(CONNECTIONS)

    def service_actions(self) -> None:
        """Update the clock, even without requests (called each half second)."""
        self.service.clock()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 socketserver's
        """Drop the connection if there are too many: nginx answers 502, the worker retries."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 socketserver's
        """Handle the request, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 socketserver's
        """Log an unanswered request (such as for a full disk) as one line, not a traceback."""
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug(f"nginx closed a connection early: {error}")
        else:
            log.error(f"could not answer a request: {error!r}")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"
    server_version, sys_version = "keystone-join", ""
    timeout = IO_SECONDS

    def do_GET(self) -> None:
        """Answer health checks of people and probes."""
        known = self.path == "/v1/health"
        self._reply(
            HTTPStatus.OK if known else HTTPStatus.NOT_FOUND,
            {"status": "ok"} if known else {"error": "no such path"},
        )

    def do_POST(self) -> None:
        """Answer a machine that requests to join."""
        peer = "?"
        try:
            peer = self._peer()
            answer = self.server.service.answer(self._body(), peer)
        except join.Refusal as refusal:
            self._refuse(peer, refusal)
        except KeystoneError as error:
            log.error(f"{peer}: {error.message}")
            self._reply(503, {"error": "the Primer cannot admit workers now; see its journal"})
        else:
            log.info(f"{peer}: admitted")
            self._reply(200, answer)

    def _refuse(self, peer: str, refusal: join.Refusal) -> None:
        """Refuse a request; an address with too many refusals gets 429, and no log line."""
        if self.server.service.failed(peer):
            self._reply(429, {"error": "too many refused attempts; wait a minute"})
            return
        log.info(f"{peer}: refused, {refusal.status}: {refusal.text}")
        self._reply(refusal.status, {"error": refusal.text})

    def _peer(self) -> str:
        """Return the client's address from nginx, which overwrites such a header of a client."""
        values = self.headers.get_all(ADDRESS_HEADER) or []
        try:
            (address,) = values
            return str(IPv4Address(address))
        except (ValueError, AddressValueError) as error:
            raise join.Refusal(
                400, "the request did not come through the Primer's nginx"
            ) from error

    def _body(self) -> bytes:
        if self.path != "/v1/join":
            raise join.Refusal(404, "no such path")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise join.Refusal(411, "Content-Length is missing")
        if int(length) > BODY_LIMIT:
            raise join.Refusal(413, f"more than {BODY_LIMIT} bytes")
        return self.rfile.read(int(length))

    def _reply(self, status: int, value: Mapping[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if status in join.AGAIN:
            self.send_header("Retry-After", str(RETRY_SECONDS))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 the base's names
        """Print nothing: the base class prints every request, do_POST logs the outcome."""


def serve(server: Server) -> None:
    """Answer requests until the process ends."""
    log.info(f"answering joining workers on {server.server_address!s}, behind nginx")
    try:
        server.serve_forever()
    finally:
        server.server_close()
