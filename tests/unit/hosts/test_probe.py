"""hosts.probe: functions that can be tested alone."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from keystone.hosts import probe


def card(name: str, *addresses: str, scope: str = "global", **more: object) -> dict[str, Any]:
    """Return an interface as `ip -j -d address` prints it."""
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
    ("default_route", "links", "wanted"),
    [
        ("enp6s0", [FIRST, SECOND], ["10.77.0.11/22", "10.77.1.132/24", "fe80::11/64"]),
        ("enp5s0", [FIRST, SECOND], ["10.77.1.132/24", "10.77.0.11/22", "fe80::11/64"]),
        ("", [FIRST, SECOND], ["10.77.1.132/24", "10.77.0.11/22", "fe80::11/64"]),
        # The card of a service processor, with a link-local address only; Docker's bridge.
        ("", [SERVICE, SECOND], ["10.77.0.11/22", "169.254.3.1/24", "fe80::11/64"]),
        ("enx0", [SERVICE, SECOND], ["10.77.0.11/22", "169.254.3.1/24", "fe80::11/64"]),
        ("", [DOCKER, FIRST], ["10.77.1.132/24", "172.17.0.1/16"]),
    ],
)
def test_most_likely_address_of_machine_comes_first(
    default_route: str,
    links: list[dict[str, Any]],
    wanted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ip(argv: list[str]) -> str:
        if "route" in argv:
            routes = [{"dst": "default", "dev": default_route}] if default_route else []
            return json.dumps(routes)
        return json.dumps([LOOPBACK, *links])

    monkeypatch.setattr(probe, "output", ip)
    assert probe.networks() == wanted


def test_name_server_that_does_not_answer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server answers, one refuses the port, one is silent."""
    answering, silent = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with answering, silent:
        answering.bind(("127.77.0.2", 0))
        port = answering.getsockname()[1]
        silent.bind(("127.77.0.3", port))

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


def test_unfinished_api_server_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of any version may then finish the interrupted run."""
    (tmp_path / "manifest").write_text("image: primer:5000/kube-apiserver:v1.37.1")
    monkeypatch.setattr(probe, "API_SERVER", str(tmp_path / "manifest"))
    monkeypatch.setattr(probe, "DONE", str(tmp_path / "done"))
    assert not probe.standing()["kubernetes"]
    (tmp_path / "done").touch()
    assert probe.standing()["kubernetes"] == "v1.37.1"


BLOCK = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nTUlJ\n-----END PRIVATE KEY-----\n"


def test_certificates_are_found_and_keys_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = base64.b64encode((BLOCK + KEY).encode()).decode()
    for name, text in {
        "peer.crt": BLOCK * 2,
        "broken.crt": "no certificate",
        "peer.key": KEY,
        "kubelet.pem": BLOCK + KEY,
        "admin.conf": f"users:\n- user:\n    client-certificate-data: {inside}\n",
        "broken.conf": "    client-certificate-data: ===\n",
        "kubelet.conf": "    client-certificate: /var/lib/kubelet/pki/x.pem\n",
    }.items():
        (tmp_path / name).write_text(text)
    patterns = ("*.crt", "*.conf", "kubelet.pem")
    monkeypatch.setattr(probe, "CERTIFICATES", tuple(f"{tmp_path}/{one}" for one in patterns))
    assert {Path(path).name: text for path, text in probe.certificates().items()} == {
        "peer.crt": BLOCK * 2,
        "broken.crt": "",
        "kubelet.pem": BLOCK,
        "admin.conf": BLOCK,
        "broken.conf": "",
    }
