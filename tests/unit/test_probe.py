"""What the probe says of a host, where its parts can be asked alone."""

from __future__ import annotations

import json
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
