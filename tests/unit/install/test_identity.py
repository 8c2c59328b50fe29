"""What of an existing site a run refuses to change, and machines that are not the known ones."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest
from tests.unit.install.test_phases import state

from keystone.cluster import known
from keystone.cluster.facts import ClusterFacts, EtcdFacts, MemberFacts, NodeFacts
from keystone.errors import HostError
from keystone.install import identity, machines

if TYPE_CHECKING:
    from keystone.cluster.known import Known
    from keystone.install.findings import Finding
    from keystone.install.state import State


def living(**changes: Known) -> State:
    """Return a site whose three Primers are recorded; changes: other records, by name."""
    there = state(joined="p1 p2 p3")
    kept = identity.wanted(there)
    kept |= {f"{known.PRIMERS}{name}": known.dump(record) for name, record in changes.items()}
    return replace(there, etcd=EtcdFacts((), kept), here="p1")


def record(name: str, **changes: object) -> Known:
    return replace(living().known[name], **changes)  # type: ignore[arg-type]


def found(now: State) -> list[Finding]:
    return list(identity.findings(now))


def test_site_that_is_as_recorded_has_no_finding() -> None:
    assert found(living()) == []
    assert not identity.missing(living())
    assert identity.missing(state())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine_id": "old"}, "(known: old)"),
        ({"host_key": "ssh-ed25519 AAAA"}, "SSH host key"),
        ({"disks": ("KEY1", "KEY2")}, "disks none (known: KEY1 KEY2)"),
    ],
)
def test_another_machine_under_a_known_name_is_refused_until_it_is_named(
    change: dict[str, object], said: str
) -> None:
    now = living(p2=record("p2", **change))
    (finding,) = found(now)
    assert (finding.severity, finding.host) == ("refused", "p2")
    assert said in finding.text
    assert "node replace p2" in finding.hint
    assert found(replace(now, replacing=("p2",))) == []


def test_two_replaced_machines_are_named_together() -> None:
    """After two of three were lost neither could be replaced before the other."""
    now = living(p2=record("p2", machine_id="old"), p3=record("p3", machine_id="old"))
    assert {one.hint.rpartition(": ")[2] for one in found(now)} == {
        "keystone-install node replace p2 p3"
    }
    (finding,) = found(replace(now, replacing=("p2",)))
    assert finding.hint.endswith("node replace p2 p3")
    assert found(replace(now, replacing=("p2", "p3"))) == []


def test_member_whose_machine_has_no_data_is_refused_with_what_it_is() -> None:
    now = living()
    assert now.etcd is not None
    silent = MemberFacts("1", "p1", healthy=False)
    now = replace(now, etcd=replace(now.etcd, members=(silent,)))
    (finding,) = found(now)
    assert (finding.severity, finding.host) == ("refused", "p1")
    assert now.facts["p1"].machine_id in finding.text
    assert found(replace(now, replacing=("p1",))) == []


def test_one_disk_of_a_mirror_may_be_replaced() -> None:
    before, after = record("p1", disks=("A", "B")), record("p1", disks=("A", "C"))
    assert before.differs(after) == ()


@pytest.mark.parametrize(
    ("change", "host", "said"),
    [
        ({"name": "p9"}, "p9", "has the address of p3"),
        ({"address": IPv4Address("10.77.0.99")}, "p3", "has address 10.77.0.99"),
    ],
)
def test_site_file_that_renames_or_moves_a_primer_is_refused(
    change: dict[str, object], host: str, said: str
) -> None:
    now = living()
    *others, last = now.site.primers
    site = replace(now.site, primers=(*others, replace(last, **change)))  # type: ignore[arg-type]
    (finding,) = identity.fixed(site, now.etcd.kept if now.etcd else {})
    assert (finding.severity, finding.host) == ("refused", host)
    assert said in finding.text


@pytest.mark.parametrize(
    ("key", "name"), [("control_plane", "controlPlane"), ("kubelet", "kubelet")]
)
def test_part_that_a_primer_has_cannot_be_taken_from_it(key: str, name: str) -> None:
    now = living()
    *others, last = now.site.primers
    site = replace(now.site, primers=(*others, replace(last, **{key: False})))
    (finding,) = identity.fixed(site, now.etcd.kept if now.etcd else {})
    assert (finding.severity, finding.host) == ("refused", "p3")
    assert f"{name}: false" in finding.text


@pytest.mark.parametrize("key", ["pods", "services"])
def test_site_file_with_other_networks_is_refused(key: str) -> None:
    now = living()
    networks = replace(now.site.networks, **{key: IPv4Network("10.200.0.0/16")})
    (finding,) = found(replace(now, site=replace(now.site, networks=networks)))
    assert (finding.severity, finding.host) == ("refused", "the site file")
    assert f"spec.networks.{key} is 10.200.0.0/16" in finding.text


def test_all_api_servers_cannot_be_taken_away_before_another_one_runs() -> None:
    now = living()
    new = replace(now.site.primers[2], name="p4", address=IPv4Address("10.77.0.14"))
    facts = {"p4": replace(now.facts["p3"], name="p4", roles={})}
    now = replace(now, site=replace(now.site, primers=(new,)), facts=facts)
    assert [(one.severity, one.host) for one in found(now)] == [("refused", "p1, p2, p3")]


def test_even_number_of_primers_is_a_warning() -> None:
    now = living()
    two = replace(now.site, primers=now.site.primers[:2])
    assert [one.severity for one in found(replace(now, site=two))] == ["warning"]


@pytest.mark.parametrize("text", ["", "[]", '{"address": "10.77.0.11"}', '{"more": 1}'])
def test_record_that_is_none_is_an_error_that_names_its_key(text: str) -> None:
    with pytest.raises(HostError, match="/keystone/primers/p1"):
        known.primers({f"{known.PRIMERS}p1": text})


def test_roll_lists_primers_those_that_leave_and_workers() -> None:
    now = living(p9=record("p3", address="10.77.0.19"))
    assert now.etcd is not None
    members = EtcdFacts(
        (
            MemberFacts("1", "p1", healthy=True, leads=True),
            MemberFacts("2", "p2", healthy=False),
            MemberFacts("3", "", False, True, ("https://10.77.0.13:2380",)),
        ),
        now.etcd.kept,
    )
    cluster = ClusterFacts(
        (NodeFacts("p1", ready=True), NodeFacts("w1", ready=False, addresses=("10.77.0.21",)))
    )
    rows = [
        (one.name, one.address, one.part, one.member, one.node)
        for one in machines.machines(now.site, members, cluster)
    ]
    assert rows == [
        ("p1", "10.77.0.11", "control plane", "leader", "Ready"),
        ("p2", "10.77.0.12", "control plane", "silent", ""),
        ("p3", "10.77.0.13", "control plane", "learner", ""),
        ("p9", "10.77.0.19", "leaving", "", ""),
        ("w1", "10.77.0.21", "worker", "", "not Ready"),
    ]
