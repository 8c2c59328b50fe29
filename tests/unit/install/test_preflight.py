"""Preflight: each case is a changed capture of a host, and the expected findings."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from keystone.bundle.model import Digest, Item, Manifest
from keystone.errors import PreflightError, RefusedError
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts
from keystone.install import preflight
from keystone.site.model import Disk, Networks, Node, Patience, Site, Storage

ROOT = Path(__file__).parents[2] / "cases"
CASES = json.loads((ROOT / "preflight" / "one-host.json").read_text())
TRIAL_CASES = json.loads((ROOT / "preflight" / "one-trial-host.json").read_text())
MIB = 1 << 20


def item(kind: str, name: str, size: int, **labels: str) -> Item:
    return Item(kind, name, "1", Digest("0" * 64), size, labels)


MANIFEST = Manifest(
    "platform",
    1,
    (
        item("image", "etcd", 500 * MIB),
        item("binary", "kubelet", 100 * MIB),
        item("installer", "keystone-install", 20 * MIB),
        item("deb", "zfs-modules", 10 * MIB, kernel="6.12.57+deb13-amd64"),
        item("deb", "chrony", 50 * MIB),
    ),
)


def node(number: int) -> Node:
    disks = (Disk(f"KEYP{number}A"), Disk(f"KEYP{number}B"))
    return Node(f"p{number}", IPv4Address(f"10.77.0.1{number}"), disks)


def site(count: int = 1) -> Site:
    networks = Networks(nodes=IPv4Network("10.77.0.0/24"))
    primers = tuple(node(number) for number in range(1, count + 1))
    return Site("lab", primers, networks, patience=Patience("emulated"))


def host(base: str = "blank", changes: dict[str, Any] | None = None) -> HostFacts:
    capture = json.loads((ROOT / "facts" / f"debian13-{base}.json").read_text())
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = capture
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = copy.deepcopy(value)
    return observe.parse("p1", capture, (capture["clock"] - 1, capture["clock"] + 1))


@pytest.mark.parametrize("name", sorted(CASES))
def test_findings_of_one_host(name: str) -> None:
    check_case(CASES[name], site())


@pytest.mark.parametrize("name", sorted(TRIAL_CASES))
def test_findings_of_one_trial_host(name: str) -> None:
    check_case(TRIAL_CASES[name], trial_site())


def test_trial_site_with_disks_needs_zfs_modules_too() -> None:
    seen = {"p1": host(changes={"kernel": "6.18.44", "settings": {}})}
    (found,) = preflight.check(replace(site(), trial=True), seen, MANIFEST)
    assert (found.severity, found.text.partition(";")[0]) == ("failed", "runs kernel 6.18.44")


def trial_site() -> Site:
    bare = (replace(node(1), disks=()),)
    return replace(
        site(), trial=True, primers=bare, storage=Storage(layout="directory"), patience=Patience()
    )


def check_case(case: dict[str, Any], wanted: Site) -> None:
    found = preflight.check(wanted, {"p1": host(case["base"], case["changes"])}, MANIFEST)
    assert [finding.severity for finding in found] == [severity for severity, _ in case["findings"]]
    for finding, (_, text) in zip(found, case["findings"], strict=True):
        assert finding.text.startswith(text)
        assert finding.host == "p1"
        assert finding.hint


def test_network_boot_port_is_checked_only_if_network_boot_is_on() -> None:
    seen = {"p1": host("blank", {"ports": {"8080": "java"}})}
    assert preflight.check(site(), seen, MANIFEST) == ()
    (found,) = preflight.check(replace(site(), network_boot=True), seen, MANIFEST)
    assert (found.severity, found.text) == ("failed", "runs java on port 8080")


def three(**changes: Any) -> dict[str, HostFacts]:
    seen = {}
    for number in (1, 2, 3):
        disks = tuple(
            replace(disk, serial=disk.serial.replace("P1", f"P{number}")) for disk in host().disks
        )
        seen[f"p{number}"] = replace(
            host(),
            name=f"p{number}",
            hostname=f"p{number}",
            machine_id=f"{number:032x}",
            networks=(f"10.77.0.1{number}/24",),
            disks=disks,
        )
    seen["p3"] = replace(seen["p3"], **changes)
    return seen


def lines(seen: dict[str, HostFacts]) -> list[str]:
    return [finding.line() for finding in preflight.check(site(3), seen, MANIFEST)]


def test_three_fit_hosts_give_no_finding() -> None:
    assert lines(three()) == []


def test_clock_that_differs_by_a_year_fails() -> None:
    assert lines(three(clock_offset=-365.0 * 86400)) == [
        f"{one}, p3: have clocks that differ by 365 days "
        "(set both clocks: date --set, then hwclock --systohc)"
        for one in ("p1", "p2")
    ]


def test_clocks_a_day_apart_fail_with_exit_code_6() -> None:
    found = preflight.check(site(3), three(clock_offset=86400.0), MANIFEST)
    with pytest.raises(PreflightError) as caught:
        preflight.enforce(found)
    assert caught.value.exit_code == 6
    assert [finding.text for finding in found] == ["have clocks that differ by 1440 min 00 s"] * 2


def test_clock_difference_within_measuring_error_is_accepted() -> None:
    assert lines(three(clock_offset=62.0, clock_error=10.0)) == []
    assert len(lines(three(clock_offset=62.0, clock_error=0.1))) == 2


def test_same_machine_id_or_hostname_fails() -> None:
    found = lines(three(machine_id=f"{1:032x}", hostname="p2"))
    assert [line.partition(" (")[0] for line in found] == [
        f"p1, p3: have the same machine-id {1:032x}",
        "p2, p3: have the same hostname p2",
    ]


def test_single_disk_layout_is_only_a_warning() -> None:
    single = replace(site(), storage=Storage(layout="single"))
    single = replace(single, primers=(replace(node(1), disks=(Disk("KEYP1A"),)),))
    found = preflight.check(single, {"p1": host()}, MANIFEST)
    assert [finding.severity for finding in found] == ["warning"]
    preflight.enforce(found)


def test_disk_with_content_is_refused_with_exit_code_7_and_all_findings() -> None:
    seen = {"p1": host(changes={"disks.0.lsblk.pttype": "gpt", "swaps": ["/dev/vda3"]})}
    with pytest.raises(RefusedError) as caught:
        preflight.enforce(preflight.check(site(), seen, MANIFEST))
    assert caught.value.exit_code == 7
    for word in ("p1", "KEYP1A", "gpt", "has swap on"):
        assert word in caught.value.message


def test_unfit_host_fails_with_exit_code_6() -> None:
    with pytest.raises(PreflightError) as caught:
        preflight.enforce(preflight.check(site(), {"p1": host(changes={"cgroup": 1})}, MANIFEST))
    assert caught.value.exit_code == 6
    assert caught.value.findings[0].startswith("p1: uses cgroup v1")


def test_findings_are_shown_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    preflight.render(preflight.check(site(), {"p1": host(changes={"cgroup": 1})}, MANIFEST))
    assert "uses cgroup v1" in capsys.readouterr().out
    preflight.render([])
    assert capsys.readouterr().out == ""
