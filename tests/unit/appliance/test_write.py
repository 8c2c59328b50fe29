"""The plan of a medium for a machine, and what it refuses before it changes any disk."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

import pytest

from keystone.appliance import discover, installing
from keystone.appliance import write as writing
from keystone.appliance.identity import Card
from keystone.appliance.write import Running
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.hosts.facts import DiskFacts
from keystone.image.squashfs import System
from keystone.run import run
from keystone.site.model import Machine, Networks, Node, Site, Ssh

NODE = Node("p1", IPv4Address("10.77.0.11"), ())
SITE = Site(
    "plant", (NODE,), Networks(IPv4Network("10.77.0.0/24")), system_floor=3,
    ssh=Ssh(authorized_keys=("ssh-ed25519 AAAA operator",)),
)  # fmt: skip


def test_medium_older_than_system_floor_refused() -> None:
    now = Running(System(Path("/dev/sr0"), 4096, "ab" * 32), 2, medium=True)
    with pytest.raises(RefusedError, match="version 2, but site plant requires 3 or newer"):
        installing.plan(now, SITE, NODE)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Running:
    """A machine with one blank disk A and two network cards with a cable."""
    blank = DiskFacts(
        name="a", path="/dev/a", by_id=(), serial="A", model="M", size=64 << 30,
        logical_sector=512, physical_sector=512,
    )  # fmt: skip
    macs = ("52:54:00:00:00:21", "52:54:00:00:00:22")
    monkeypatch.setattr(observe, "disks", lambda: (blank,))
    monkeypatch.setattr(
        discover, "cards", lambda: {mac: Card("eno", "igb", cable=True) for mac in macs}
    )
    monkeypatch.setattr(writing, "begun", lambda *_: False)
    return Running(System(Path("/dev/sr0"), 4096, "ab" * 32), 3, medium=True)


def test_ambiguous_network_card_refused_by_plan(
    plugged: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match=r"network card for 10\.77\.0\.11: 2 of .* have a cable"):
        installing.plan(plugged, SITE, NODE)
    named = replace(NODE, machine=Machine("", ("52:54:00:00:00:22",)))
    shown = installing.plan(plugged, SITE, named).describe("10.77.0.11")
    assert "write version 3 to disk A" in shown
    assert "10.77.0.11 on network card 52:54:00:00:00:22 (eno, igb, cable)" in shown


def test_disk_that_holds_system_needs_no_network_card(
    plugged: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (blank,) = observe.disks()
    whole = replace(blank, partition_table="gpt", partitions=("a1", "a2"))
    monkeypatch.setattr(observe, "disks", lambda: (whole,))
    monkeypatch.setattr(writing, "slot_of", lambda *_: "a2")
    assert installing.plan(plugged, SITE, NODE).disk.done


@pytest.mark.parametrize(
    ("ssh", "why"),
    [
        (Ssh(), "nobody could log in: site plant names no public key"),
        (replace(SITE.ssh, user="admin"), "logs in as admin at port 22"),
        (replace(SITE.ssh, port=2222), "logs in as root at port 2222"),
    ],
)
def test_system_without_possible_login_refused(plugged: Running, ssh: Ssh, why: str) -> None:
    node = replace(NODE, machine=Machine("", ("52:54:00:00:00:22",)))
    assert installing.plan(plugged, SITE, node).disk.serial == "A"
    with pytest.raises(RefusedError, match=why):
        installing.plan(plugged, replace(SITE, ssh=ssh), node)


def test_slot_searched_on_named_disk_only(plugged: Running, tmp_path: Path) -> None:
    """Primers of one version have equal PARTUUIDs, so udev's link leads to either disk."""
    for name, uuid in (("mine", plugged.system.partition), ("other", UUID(int=7))):
        with (tmp_path / name).open("wb") as file:
            file.truncate(64 << 20)
        run(
            ["sfdisk", "--quiet", tmp_path / name],
            data=f"label: gpt\nsize=1MiB\nsize=8MiB, uuid={uuid}\n",
        )
    (tmp_path / "blank").write_bytes(bytes(1 << 20))
    found = {name: writing.slot_on(plugged, f"{tmp_path}/{name}") for name in
             ("mine", "other", "blank", "missing")}  # fmt: skip
    assert found == {"mine": "mine2", "other": "", "blank": "", "missing": ""}


def test_failure_without_medium_reported_as_lost_medium(
    plugged: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The device of /proc returns no data, like that of a removed medium."""
    node = replace(NODE, machine=Machine("", ("52:54:00:00:00:22",)))
    wanted = installing.plan(plugged, SITE, node).disk
    monkeypatch.setattr(observe, "disks", lambda: ())
    monkeypatch.setattr(writing, "RUN", tmp_path)
    monkeypatch.setattr(writing, "MEDIUM", tmp_path)
    with pytest.raises(RefusedError, match="A"):
        writing.write(plugged, wanted)
    monkeypatch.setattr(writing, "MEDIUM", Path("/proc"))
    with pytest.raises(HostError, match="the medium was removed"):
        writing.write(plugged, wanted)
