"""The lab's bridge and its counters, with namespaces on veth pairs instead of machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from keystone.lab import settings
from keystone.lab.machines import network
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.settings import LabSettings

pytestmark = pytest.mark.netns

GUESTS = {"a": "10.77.0.11", "b": "10.77.0.12"}
SEND = """
import socket, sys
kind = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[sys.argv[1]]
s = socket.socket(socket.AF_INET, kind)
s.settimeout(0.2)
try:
    s.connect((sys.argv[2], int(sys.argv[3])))
    s.send(b"x")
except TimeoutError:
    pass
"""


@pytest.fixture
def lab() -> Iterator[LabSettings]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    lab = settings.load(name=f"pytest{os.getpid()}")
    guests = [f"{lab.namespace}-{guest}" for guest in GUESTS]
    try:
        network.up(lab)
        for guest, address in GUESTS.items():
            _guest(lab, guest, address)
        yield lab
    finally:
        network.down(lab)
        for guest in guests:
            run(["ip", "netns", "delete", guest], check=False)


def _guest(lab: LabSettings, guest: str, address: str) -> None:
    space = f"{lab.namespace}-{guest}"
    run(["ip", "netns", "add", space])
    inside = ["ip", "netns", "exec", space]
    port = f"tap-{guest}"
    veth = ["type", "veth", "peer", "name", "lan", "netns", space]
    run([*network.prefix(lab), "ip", "link", "add", port, *veth])
    run([*network.prefix(lab), "ip", "link", "set", port, "master", network.BRIDGE, "up"])
    run([*inside, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    run([*inside, "ip", "address", "add", f"{address}/24", "dev", "lan"])
    run([*inside, "ip", "link", "set", "lan", "up"])
    run([*inside, "ip", "route", "add", "default", "via", str(lab.gateway)])


def send(lab: LabSettings, guest: str, kind: str, address: str, port: int) -> None:
    space = f"{lab.namespace}-{guest}"
    run(["ip", "netns", "exec", space, "python3", "-c", SEND, kind, address, str(port)])


def grown(lab: LabSettings, before: dict[str, int]) -> dict[str, int]:
    after = network.counters(lab)
    names = (*network.LEAKS, "declared")
    return {name: after[name] - before[name] for name in names if after[name] != before[name]}


def test_packets_between_machines_are_declared(lab: LabSettings) -> None:
    before = network.counters(lab)
    send(lab, "a", "udp", GUESTS["b"], 8472)
    assert set(grown(lab, before)) == {"declared"}
    assert network.leaked(lab) == []


@pytest.mark.parametrize(
    ("kind", "address", "port", "counter"),
    [
        ("udp", "192.0.2.1", 123, "leak"),
        ("tcp", "192.0.2.1", 443, "leak"),
        ("udp", "192.0.2.1", 53, "leak_dns"),
        ("tcp", "192.0.2.1", 53, "leak_dns"),
        ("udp", GUESTS["b"], 53, "leak_dns"),
        ("udp", "10.77.0.1", 123, "leak"),
        ("tcp", "10.77.0.1", 443, "leak"),
    ],
)
def test_undeclared_packets_are_counted_and_named(
    lab: LabSettings, kind: str, address: str, port: int, counter: str
) -> None:
    before = network.counters(lab)
    send(lab, "a", kind, address, port)
    assert set(grown(lab, before)) == {counter}
    assert network.leaked(lab) == [f"{GUESTS['a']} > {address}"]


def test_creating_the_network_again_keeps_the_counters(lab: LabSettings) -> None:
    send(lab, "a", "udp", "192.0.2.1", 9)
    network.up(lab)
    assert network.counters(lab)["leak"] == 1


def test_incomplete_network_is_completed(lab: LabSettings) -> None:
    run([*network.prefix(lab), "nft", "flush", "ruleset"])
    run([*network.prefix(lab), "ip", "link", "delete", network.BRIDGE])
    network.up(lab)
    assert set(network.counters(lab)) == {"declared", "gateway", "leak", "leak_dns", "local"}
