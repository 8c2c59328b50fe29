"""One ISO only: from blank disks to a quorum, and to a node, without a person.

The ISO carries the site file, the introductions and the bundle. A site of three Primers is tested
until its quorum is healthy, a site of one until its node is Ready, and another one until its Primer
starts the next machine over the network: two emulated cores can do no more in an hour.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.lab import settings
from keystone.lab.carry import carry
from keystone.lab.machines import network
from keystone.lab.machines.lab import Lab
from keystone.run import Host, run, spawned

from .bench import GIB, KEYSTONE, POOL
from .machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from keystone.lab.settings import LabSettings

    from .bench import Bench

pytestmark = [pytest.mark.images, pytest.mark.timeout(14400)]
PATIENCE = 9000
"""Timeout of the installation in seconds: emulated machines share two processors."""


@pytest.fixture
def wire() -> Iterator[LabSettings]:
    """An isolated network."""
    lab = replace(settings.load(), name="site")
    network.down(lab)
    network.up(lab)
    yield lab
    network.down(lab)


def site(bench: Bench, primers: Sequence[str]) -> dict[str, object]:
    """A site like the lab's, in which one Primer has the control plane."""
    return {
        "apiVersion": "keystone/v1alpha1", "kind": "Site", "metadata": {"name": "plant"},
        "spec": {
            "ssh": {"user": "root", "authorizedKeys": [bench.public]},
            "networks": {"nodes": "10.77.0.0/24"},
            "patience": {"profile": "emulated"},
            "networkBoot": True,
            "trust": {
                "rootKeyFile": "/etc/keystone/root.key",
                "passphraseFile": "/etc/keystone/passphrase",
            },
            "primers": [
                {
                    "name": name, "address": f"10.77.0.1{number}",
                    "machine": {"serial": f"M{number}"}, "systemDisk": f"SYS{number}",
                    "disks": [{"serial": f"A{number}"}, {"serial": f"B{number}"}],
                    "controlPlane": number == 1, "kubelet": number == 1,
                }
                for number, name in enumerate(primers, 1)
            ],
        },
    }  # fmt: skip


def freight(bench: Bench, primers: Sequence[str]) -> Path:
    """Make the folder with further files for the ISO."""
    folder = bench.folder / "freight"
    folder.mkdir()
    carried = carry(Lab("").folder)
    (folder / "offline.tar").hardlink_to(carried.bundle)
    (folder / "site.yaml").write_text(yaml.safe_dump(site(bench, primers)))
    secret = bench.folder / "passphrase"
    secret.write_text("the lab's own passphrase, not a secret\n")
    run([*KEYSTONE, "site", "introduce", folder / "site.yaml", "--to", folder,
         "--root-fingerprint", carried.fingerprint, "--passphrase-file", secret])  # fmt: skip
    return folder


def blank(bench: Bench, wire: LabSettings, primers: Sequence[str]) -> list[Machine]:
    """Machines with three blank disks each, connected to the network."""
    machines = []
    for number, name in enumerate(primers, 1):
        network.plug(wire, f"tap{name}")
        machine = Machine(bench.folder / name, serial=f"M{number}")
        machine.mac, machine.memory = f"52:54:00:00:00:1{number}", 3072 if number == 1 else 2048
        machine.network = (
            "-netdev", f"tap,id=net,ifname=tap{name},script=no,downscript=no",
            "-device", "virtio-net-pci,netdev=net,mac={mac}",
        )  # fmt: skip
        machine.prefix = network.prefix(wire)
        pool = [bench.disk(f"{side}{number}", 8 * GIB) for side in "AB"]
        machine.disks = [*pool, bench.disk(f"SYS{number}")]
        machines.append(machine)
    return machines


def write(machines: Sequence[Machine], iso: Path) -> None:
    """Let the machines write their disks in turn. The ISO stays, for the bundle on it."""
    for machine in machines:
        machine.cd, machine.extra = iso, ("-no-reboot",)
        with machine:
            machine.hear(r"Done: p\d starts from disk SYS\d")
            machine.ended()
        machine.cd, machine.late, machine.extra = None, iso, ()


def reached(bench: Bench, wire: LabSettings, primers: Sequence[str]) -> list[Host]:
    """The Primers as hosts for ssh."""
    return [
        Host(
            name, f"10.77.0.1{number}", key_file=str(bench.key),
            known_hosts=str(bench.folder / "freight/introductions/p1/known_hosts"),
            prefix=network.prefix(wire),
        )
        for number, name in enumerate(primers, 1)
    ]  # fmt: skip


def nothing_failed(hosts: Sequence[Host], wire: LabSettings) -> None:
    """Assert that no unit failed on any machine, and that no packet tried to leave the site."""
    for host in hosts:
        assert host.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""
    assert network.counters(wire)["leak"] == 0


def test_three_machines_installed_from_one_iso_form_quorum(
    bench: Bench, build: Callable[..., Path], wire: LabSettings
) -> None:
    primers = ("p1", "p2", "p3")
    iso = build(carry=freight(bench, primers))
    machines, hosts = blank(bench, wire, primers), reached(bench, wire, primers)
    begun = time.monotonic()
    write(machines, iso)
    print(f"{time.monotonic() - begun:.0f} s from power-on to three written machines")
    with ExitStack() as running:
        for machine in machines:
            running.enter_context(machine)
        machines[0].hear(r"\[\d+/\d+\] join service", within=PATIENCE)  # the phase after the quorum
        print(f"{time.monotonic() - begun:.0f} s to the quorum")
        status = json.loads(hosts[0].run(["keystone-install", "etcd", "status", "--json"]).stdout)
        print(status)
        assert sorted(member["name"] for member in status) == list(primers)
        assert sorted(member["state"] for member in status) == ["follower", "follower", "leader"]
        nothing_failed(hosts, wire)


def test_one_machine_installed_from_iso_becomes_ready_node(
    bench: Bench, build: Callable[..., Path], wire: LabSettings
) -> None:
    iso = build(carry=freight(bench, ("p1",)))
    (machine,), hosts = blank(bench, wire, ("p1",)), reached(bench, wire, ("p1",))
    write([machine], iso)
    with machine:
        took = machine.hear(r"Done\. Add a worker with", within=PATIENCE)
        print(f"{took:.0f} s from the first start to the installed site")
        hosts[0].run(
            ["kubectl", "wait", "--for=condition=Ready", "node/p1", "--timeout=900s"], timeout=1000
        )
        print(hosts[0].run(["kubectl", "get", "nodes", "-o", "wide"]).stdout)
        nothing_failed(hosts, wire)


@contextmanager
def dhcp(wire: LabSettings, mac: str, script: str) -> Iterator[None]:
    """Run the site's DHCP server, dnsmasq(8), as docs/guide/images/network-boot.md requires."""
    inside = network.prefix(wire)
    rule = ["bridge", "keystone", "ingress", "udp", "dport", "67", "accept"]
    run([*inside, "nft", "insert", "rule", *rule])
    words = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
        f"--interface={network.BRIDGE}", "--bind-interfaces", "--leasefile-ro", "--pid-file=",
        "--dhcp-range=10.77.0.200,static", f"--dhcp-host={mac},set:keystone,10.77.0.201",
        "--dhcp-userclass=set:ipxe,iPXE", f"--dhcp-boot=tag:keystone,tag:ipxe,{script}",
    ]  # fmt: skip
    with spawned([*inside, *words]):
        yield


def test_primer_starts_next_machine_over_network(
    bench: Bench, build: Callable[..., Path], wire: LabSettings
) -> None:
    """`image serve` is run on the Primer as soon as its registry runs."""
    files, iso = build("pxe"), build(carry=freight(bench, ("p1",)))
    (machine,), (host,) = blank(bench, wire, ("p1",)), reached(bench, wire, ("p1",))
    write([machine], iso)
    text = bench.site("SYS9")
    for old, new in (
        ("serial: M1", "serial: M9"),
        ("name: p1", "name: p9"),
        ("10.77.0.11", "10.77.0.19"),
    ):
        text = text.replace(old, new)
    network.plug(wire, "tapp9")
    next_one = replace(
        machine, folder=bench.folder / "p9", serial="M9", firmware="bios", memory=2048,
        mac="52:54:00:00:00:19", late=None, extra=("-boot", "n", "-no-reboot"),
        network=tuple(word.replace("tapp1", "tapp9") for word in machine.network),
        disks=[*(bench.disk(serial, GIB) for serial in POOL), bench.disk("SYS9")],
    )  # fmt: skip
    with machine:
        machine.hear(r"\[\d+/\d+\] etcd", within=PATIENCE)  # the phase after the registry
        host.run(["systemctl", "stop", "keystone-continue.service"])  # another test covers its end
        host.run(["sh", "-c", "cat >/var/tmp/site.yaml"], data=text)
        with files.open("rb") as source:
            host.run(["sh", "-c", "cat >/var/tmp/primer-pxe.tar"], stdin=source, timeout=1800)
        words = ["keystone-install", "image", "serve"]
        named = json.loads(files.with_suffix(".json").read_text())["release"]
        files_there = ["/var/tmp/primer-pxe.tar", "--site", "/var/tmp/site.yaml",
                       "--release", named]  # fmt: skip
        script = "http://10.77.0.11:8080/boot/boot.ipxe"
        assert script in host.run([*words, *files_there], timeout=1800).stdout
        with dhcp(wire, next_one.mac, script), next_one:
            took = next_one.hear(r"Done: p9 starts from disk SYS9")
            print(f"{took:.0f} s from power-on to the end of the writing, over the network")
            next_one.ended()
        host.run([*words, "--stop"])
        fetch = f"import urllib.request; urllib.request.urlopen({script!r})"
        assert "404" in host.run(["python3", "-c", fetch], check=False).stderr
        assert network.counters(wire)["leak"] == 0
