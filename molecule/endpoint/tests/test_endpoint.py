"""The role endpoint: one address on the machine that reaches an API server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

SERVE = """
import socket
with socket.create_server(("", 6443)) as server:
    server.settimeout(60)
    link, _ = server.accept()
    link.sendall(b"an API server")
"""
"""A substitute for an API server, for one connection. haproxy does not read the content."""
ASK = """
import socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
end, answer = time.monotonic() + 50, b""
while not answer and time.monotonic() < end:
    with socket.create_connection((host, int(port)), timeout=50) as link:
        answer = link.recv(100)
print(answer.decode())
"""


def test_connection_reaches_an_api_server(host: Host, role_variables: dict[str, Any]) -> None:
    host.check_output("systemd-run --quiet --unit=molecule-api --collect python3 -c %s", SERVE)
    assert (
        host.check_output("python3 -c %s %s", ASK, role_variables["endpoint_listen"])
        == "an API server"
    )


def test_endpoint_listens_only_on_loopback(host: Host, role_variables: dict[str, Any]) -> None:
    address, port = role_variables["endpoint_listen"].rsplit(":", 1)
    assert address == "127.0.0.1"
    assert host.socket(f"tcp://{address}:{port}").is_listening


def test_haproxy_accepts_its_configuration(host: Host) -> None:
    host.check_output("haproxy -c -f /etc/haproxy/haproxy.cfg")
    assert host.service("haproxy").is_enabled
