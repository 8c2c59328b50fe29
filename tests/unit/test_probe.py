"""What the probe says of a host, where its parts can be asked alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from keystone import probe

LINKS = [
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "scope": "host"}]},
    {"ifname": "enp5s0", "addr_info": [{"local": "10.77.1.132", "scope": "global"}]},
    {
        "ifname": "enp6s0",
        "addr_info": [
            {"local": "10.77.0.11", "scope": "global"},
            {"local": "fe80::11", "scope": "link"},
        ],
    },
]


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("enp6s0", ["10.77.0.11", "fe80::11", "10.77.1.132"]),
        ("enp5s0", ["10.77.1.132", "10.77.0.11", "fe80::11"]),
        (None, ["10.77.1.132", "10.77.0.11", "fe80::11"]),
    ],
)
def test_the_default_routes_address_comes_first(
    way: str | None, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ip(argv: list[str]) -> str:
        said: list[dict[str, Any]] = LINKS
        if "route" in argv:
            said = [{"dst": "default", "dev": way}] if way else []
        return json.dumps(said)

    monkeypatch.setattr(probe, "output", ip)
    assert probe.addresses() == wanted


def test_a_name_server_that_lets_one_wait_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answers, one refuses the port, one is deaf."""
    answering, deaf = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with answering, deaf:
        answering.bind(("127.77.0.2", 0))
        port = answering.getsockname()[1]
        deaf.bind(("127.77.0.3", port))

        def answer() -> None:
            question, peer = answering.recvfrom(512)
            answering.sendto(question, peer)

        server = Thread(target=answer)
        server.start()
        (tmp_path / "resolv.conf").write_text(
            "search lab\nnameserver 127.77.0.2\nnameserver 127.77.0.3\nnameserver 127.77.0.4\n"
        )
        monkeypatch.setattr(probe, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
        monkeypatch.setattr(probe, "NAME_SERVER_PORT", port)
        assert probe.silent_name_servers() == ["127.77.0.3"]
        server.join()
