"""Three machines and one ISO: from blank disks to the site's quorum, without a hand on them.

The ISO carries the site file, the introductions and the bundle, so it is all that is brought.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.lab import network, settings
from keystone.lab.carry import carry
from keystone.lab.machines import Lab
from keystone.run import Host, run

from .bench import GIB, KEYSTONE
from .machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystone.lab.settings import LabSettings

    from .bench import Bench

pytestmark = [pytest.mark.images, pytest.mark.timeout(14400)]
PRIMERS = ("p1", "p2", "p3")
PATIENCE = 9000
"""Seconds for the installation: three emulated machines share two processors."""


@pytest.fixture
def wire() -> Iterator[LabSettings]:
    """A network with no way out, of its own."""
    lab = replace(settings.load(), name="site")
    network.down(lab)
    network.up(lab)
    yield lab
    network.down(lab)


def site(bench: Bench) -> dict[str, object]:
    """As the lab's: one Primer has the control plane, two emulated cores bear no more."""
    return {
        "apiVersion": "keystone/v1alpha1", "kind": "Site", "metadata": {"name": "plant"},
        "spec": {
            "ssh": {"user": "root", "authorizedKeys": [bench.public]},
            "networks": {"nodes": "10.77.0.0/24"},
            "patience": {"profile": "emulated"},
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
                for number, name in enumerate(PRIMERS, 1)
            ],
        },
    }  # fmt: skip


def freight(bench: Bench) -> Path:
    """What rides on the ISO."""
    folder = bench.folder / "freight"
    folder.mkdir()
    carried = carry(Lab("").folder)
    (folder / "offline.tar").hardlink_to(carried.bundle)
    (folder / "site.yaml").write_text(yaml.safe_dump(site(bench)))
    secret = bench.folder / "passphrase"
    secret.write_text("the lab's own passphrase, not a secret\n")
    run([*KEYSTONE, "site", "introduce", folder / "site.yaml", "--to", folder,
         "--root-fingerprint", carried.fingerprint, "--passphrase-file", secret])  # fmt: skip
    return folder


def test_three_machines_from_one_iso_become_the_site(
    bench: Bench, build: Callable[..., Path], wire: LabSettings
) -> None:
    begun = time.monotonic()
    iso = build(carry=freight(bench))
    machines = []
    for number, name in enumerate(PRIMERS, 1):
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
        machine.cd, machine.extra = iso, ("-no-reboot",)
        machines.append(machine)
    for machine in machines:  # each in its turn: somebody walks from one to the next
        with machine:
            machine.hear(r"Done: p\d starts from disk SYS\d")
            machine.ended()
    print(f"{time.monotonic() - begun:.0f} s to three written machines")
    with ExitStack() as running:
        for machine in machines:
            machine.cd, machine.late, machine.extra = None, iso, ()
            running.enter_context(machine)
        hosts = {
            f"p{number}": Host(
                f"p{number}", f"10.77.0.1{number}", key_file=str(bench.key),
                known_hosts=str(bench.folder / "known_hosts"), prefix=network.prefix(wire),
            )
            for number in (1, 2, 3)
        }  # fmt: skip
        machines[0].hear(r"Done\. Add a worker with", within=PATIENCE)
        print(f"{time.monotonic() - begun:.0f} s to the installed site")
        p1 = hosts["p1"]
        members = json.loads(p1.run(["keystone-install", "etcd", "status", "--json"]).stdout)
        assert sorted(member["name"] for member in members) == list(PRIMERS)
        assert sorted(member["state"] for member in members) == ["follower", "follower", "leader"]
        p1.run(["kubectl", "wait", "--for=condition=Ready", "node/p1", "--timeout=900s"],
               timeout=1000)  # fmt: skip
        print(p1.run(["kubectl", "get", "nodes", "-o", "wide"]).stdout)
        for host in hosts.values():
            assert host.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""
    assert network.counters(wire)["leak"] == 0
