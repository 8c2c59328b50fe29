"""A machine started from a medium: which Primer it is, and the first files of its state."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from keystone.appliance import discover
from keystone.appliance.identity import Card, Hardware, card, state, system_disk, who
from keystone.errors import ConfigurationError, Mistake, RefusedError
from keystone.site.model import Disk, Machine, Networks, Node, Site, Ssh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAC = "52:54:00:00:00:11"
P1 = Node("p1", IPv4Address("10.77.0.11"), (Disk("A"), Disk("B")), machine=Machine("S1", (MAC,)))
P2 = Node("p2", IPv4Address("10.77.0.12"), (Disk("C"), Disk("D")), machine=Machine("S2"))
P3 = Node("p3", IPv4Address("10.77.0.13"), (Disk("E"), Disk("F")))
SITE = Site("plant", (P1, P2, P3), Networks(IPv4Network("10.77.0.0/24")))


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (Hardware("S1", ()), "p1"),
        (Hardware("", ("52:54:00:00:00:10", MAC)), "p1"),
        (Hardware("S1", (MAC,)), "p1"),
        (Hardware("S2", ()), "p2"),
    ],
)
def test_machine_identified_by_serial_number_or_mac(hardware: Hardware, name: str) -> None:
    found = who(SITE, None, hardware)
    assert found is not None
    assert found.name == name


def test_unknown_machine_refused_with_its_identifiers() -> None:
    with pytest.raises(RefusedError, match="serial number S9, MAC 52:54:00:00:00:99") as error:
        who(SITE, None, Hardware("S9", ("52:54:00:00:00:99",)))
    assert "p1, p2" in error.value.hint


def test_missing_serial_number_matches_no_entry() -> None:
    site = replace(SITE, primers=(replace(P1, machine=Machine("", (MAC,))),))
    with pytest.raises(RefusedError):
        who(site, None, Hardware("", ()))


def test_machine_that_matches_two_primers_refused() -> None:
    with pytest.raises(RefusedError, match="p1 and p2"):
        who(SITE, None, Hardware("S2", (MAC,)))


def test_system_disk_is_named_one_or_only_one_not_in_pool() -> None:
    assert system_disk(replace(P1, system_disk="Z"), Hardware("", (), ("A", "B"))) == "Z"
    assert system_disk(P1, Hardware("", (), ("A", "X", "B"))) == "X"


@pytest.mark.parametrize("disks", [("A", "B"), ("A", "B", "X", "Y")])
def test_ambiguous_system_disk_refused(disks: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match="cannot choose the disk for the system"):
        system_disk(P1, Hardware("", (), disks))


def test_state_has_name_address_and_keys() -> None:
    site = replace(
        SITE,
        networks=replace(SITE.networks, gateway=IPv4Address("10.77.0.1")),
        ssh=Ssh(authorized_keys=("ssh-ed25519 AAAA operator",)),
    )
    files = state(site, P1, MAC)
    assert files["etc/hostname"] == ("p1\n", 0o644)
    network, _ = files["etc/systemd/network/10-keystone.network"]
    assert f"[Match]\nMACAddress={MAC}\n" in network
    assert "Address=10.77.0.11/24\nGateway=10.77.0.1\n" in network
    assert files["root/.ssh/authorized_keys"] == ("ssh-ed25519 AAAA operator\n", 0o600)


def test_state_without_gateway_and_keys() -> None:
    files = state(SITE, P2, MAC)
    assert set(files) == {"etc/hostname", "etc/systemd/network/10-keystone.network"}
    assert "Gateway" not in files["etc/systemd/network/10-keystone.network"][0]
    assert f"MACAddress={MAC}\n" in files["etc/systemd/network/10-keystone.network"][0]


def test_network_without_card_matches_any_ethernet_but_no_veth() -> None:
    assert card(P2, {}) == ""
    files = state(SITE, P2, "")
    assert "[Match]\nKind=!*\nType=ether\n" in files["etc/systemd/network/10-keystone.network"][0]


def cards(*cables: bool) -> dict[str, Card]:
    """Cards with or without a cable; the last one has the MAC that the site names for p1."""
    macs = ("52:54:00:00:00:21", "52:54:00:00:00:22", MAC)[-len(cables) :]
    return {
        mac: Card(f"eno{number}", "igb", cable)
        for number, (mac, cable) in enumerate(zip(macs, cables, strict=True))
    }


def test_card_is_named_one_or_only_one_or_only_one_with_cable() -> None:
    assert card(P1, cards(True, True, False)) == MAC
    assert card(P2, cards(False)) == MAC
    assert card(P2, cards(False, True, False)) == "52:54:00:00:00:22"


@pytest.mark.parametrize("cables", [(True, True), (False, False)])
def test_ambiguous_card_refused(cables: tuple[bool, ...]) -> None:
    with pytest.raises(RefusedError, match=r"52:54:00:00:00:22 \(eno0, igb") as error:
        card(P2, cards(*cables))
    assert "primers[].machine.macs" in error.value.hint


def test_two_site_files_that_differ_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert discover.choose([]) is None
    one.write_text("a")
    two.write_text("a")
    assert discover.choose([one, two]) == one
    two.write_text("b")
    with pytest.raises(RefusedError) as error:
        discover.choose([one, two])
    assert str(one) in error.value.message
    assert str(two) in error.value.message


def test_reason_lists_only_first_mistakes_of_file() -> None:
    mistakes = [Mistake(f"join.yaml:{line}", "wrong") for line in range(1, 10)]
    text = discover.reason(ConfigurationError("9 mistakes", mistakes=mistakes, hint="correct it"))
    assert text.split("\n")[:2] == ["9 mistakes", "  join.yaml:1: wrong"]
    assert text.endswith("\n\ncorrect it")
    assert "join.yaml:5" not in text
    assert discover.reason(RefusedError("no")) == "no"


@pytest.fixture
def argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """A function that sets the kernel command line of a running medium."""
    (tmp_path / "medium/keystone").mkdir(parents=True)
    (tmp_path / "argument").mkdir()
    monkeypatch.setattr(discover, "RUN", tmp_path)
    monkeypatch.setattr(discover, "COMMAND_LINE", tmp_path / "cmdline")
    monkeypatch.setattr(discover, "_labelled", lambda _: [])

    def started(words: str) -> None:
        (tmp_path / "cmdline").write_text(f"boot=keystone {words} quiet\n")

    return started


def test_site_file_named_by_kernel_command_line(
    argument: Callable[[str], None], tmp_path: Path
) -> None:
    file = tmp_path / "argument/site.yaml"
    argument("keystone.root=00")
    assert discover.site_file() is None
    argument("keystone.site=http://10.77.0.2/site.yaml")
    with pytest.raises(RefusedError, match=r"http://10\.77\.0\.2/site\.yaml: .* not be fetched"):
        discover.site_file()
    file.write_text("a")
    assert discover.site_file() == file
    digest = hashlib.sha256(b"a").hexdigest()
    argument(f"keystone.site=site.yaml keystone.sitehash={digest}")
    assert discover.site_file() == file
    file.write_text("b")
    with pytest.raises(RefusedError, match=rf"keystone\.sitehash is {digest}"):
        discover.site_file()


def test_site_file_named_by_command_line_and_on_medium_that_differ_refused(
    argument: Callable[[str], None], tmp_path: Path
) -> None:
    argument("keystone.site=http://10.77.0.2/site.yaml")
    (tmp_path / "argument/site.yaml").write_text("a")
    (tmp_path / "medium/keystone/site.yaml").write_text("b")
    with pytest.raises(RefusedError, match="2 files that differ"):
        discover.site_file()


def test_installed_disk_ignores_command_line(
    argument: Callable[[str], None], tmp_path: Path
) -> None:
    argument("keystone.site=http://10.77.0.2/site.yaml")
    (tmp_path / "medium/keystone").rmdir()
    assert discover.site_file() is None
