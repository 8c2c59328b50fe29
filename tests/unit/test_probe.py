"""What the probe says of a host, where its parts can be asked alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from keystone.hosts import probe


def card(name: str, *addresses: str, scope: str = "global", **more: object) -> dict[str, Any]:
    """One interface as `ip -j -d address` prints it."""
    entries = []
    for text in addresses:
        local, _, mask = text.partition("/")
        ours = "link" if local.startswith("fe80:") else scope
        entries.append({"local": local, "prefixlen": int(mask), "scope": ours})
    return {"ifname": name, "addr_info": entries, **more}


LOOPBACK = card("lo", "127.0.0.1/8", scope="host")
FIRST = card("enp5s0", "10.77.1.132/24")
SECOND = card("enp6s0", "10.77.0.11/22", "fe80::11/64")
SERVICE = card("enx0", "169.254.3.1/24", scope="link")
DOCKER = card("docker0", "172.17.0.1/16", linkinfo={"info_kind": "bridge"})


@pytest.mark.parametrize(
    ("way", "links", "wanted"),
    [
        ("enp6s0", [FIRST, SECOND], ["10.77.0.11/22", "10.77.1.132/24", "fe80::11/64"]),
        ("enp5s0", [FIRST, SECOND], ["10.77.1.132/24", "10.77.0.11/22", "fe80::11/64"]),
        ("", [FIRST, SECOND], ["10.77.1.132/24", "10.77.0.11/22", "fe80::11/64"]),
        # The service processor's card, with an address of its link alone; Docker's own bridge.
        ("", [SERVICE, SECOND], ["10.77.0.11/22", "169.254.3.1/24", "fe80::11/64"]),
        ("enx0", [SERVICE, SECOND], ["10.77.0.11/22", "169.254.3.1/24", "fe80::11/64"]),
        ("", [DOCKER, FIRST], ["10.77.1.132/24", "172.17.0.1/16"]),
    ],
)
def test_the_address_that_a_site_can_use_comes_first(
    way: str, links: list[dict[str, Any]], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ip(argv: list[str]) -> str:
        if "route" in argv:
            return json.dumps([{"dst": "default", "dev": way}] if way else [])
        return json.dumps([LOOPBACK, *links])

    monkeypatch.setattr(probe, "output", ip)
    assert probe.networks() == wanted


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


def test_an_api_server_that_never_answered_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was cut there is finished by a bundle of any version."""
    (tmp_path / "manifest").write_text("image: primer:5000/kube-apiserver:v1.37.1")
    monkeypatch.setattr(probe, "API_SERVER", str(tmp_path / "manifest"))
    monkeypatch.setattr(probe, "DONE", str(tmp_path / "done"))
    assert not probe.standing()["kubernetes"]
    (tmp_path / "done").touch()
    assert probe.standing()["kubernetes"] == "v1.37.1"
