"""What the role endpoint leaves: one address on the machine that leads to an API server."""

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
"""In place of one, for one connection. haproxy reads nothing of what passes."""
ASK = """
import socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
end, said = time.monotonic() + 50, b""
while not said and time.monotonic() < end:
    with socket.create_connection((host, int(port)), timeout=50) as link:
        said = link.recv(100)
print(said.decode())
"""


def test_what_connects_reaches_an_api_server(host: Host, told: dict[str, Any]) -> None:
    host.check_output("systemd-run --quiet --unit=molecule-api --collect python3 -c %s", SERVE)
    assert host.check_output("python3 -c %s %s", ASK, told["endpoint_listen"]) == "an API server"


def test_only_this_machine_may_use_it(host: Host, told: dict[str, Any]) -> None:
    address, port = told["endpoint_listen"].rsplit(":", 1)
    assert address == "127.0.0.1"
    assert host.socket(f"tcp://{address}:{port}").is_listening


def test_it_is_what_haproxy_takes(host: Host) -> None:
    host.check_output("haproxy -c -f /etc/haproxy/haproxy.cfg")
    assert host.service("haproxy").is_enabled
