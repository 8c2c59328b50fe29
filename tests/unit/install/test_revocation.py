"""What machines of the past have is revoked by the run that replaces or removes them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from tests.unit.install.test_quorum import member, seen
from tests.unit.install.test_rotation import LEAKED

from keystone.cluster import known
from keystone.errors import HostError
from keystone.install import leaving, phases, trust
from keystone.install.state import State
from keystone.install.trust import Revoke
from keystone.pki import certificates
from keystone.pki.plan import TrustFacts
from keystone.pki.rotation import Rotations

END = "2027-01-01T00:00:00+00:00"
NOTES = {"0a": f"etcd-client {END}", "0b": f"etcd-peer {END}", "0c": f"site {END}"}


def noted(found: State, host: str, notes: dict[str, str]) -> State:
    """Return the state with a tree, and with a note in etcd of what the host has, or had."""
    assert found.etcd is not None
    kept = {**found.etcd.kept, f"{known.LEAVES}{host}": known.dump(notes)}
    whole = TrustFacts(wanted={node.name: "digest" for node in found.site.primers}, keys=("k",))
    return replace(found, etcd=replace(found.etcd, kept=kept), trust=whole)


def three(size: int = 3) -> State:
    return seen(member(1), member(2), member(3), data="p1 p2 p3", size=size)


def kinds(actions: phases.Actions) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_replaced_machine_is_revoked_before_the_new_one_has_certificates() -> None:
    found = replace(noted(three(), "p3", NOTES), replacing=("p3",))
    actions = phases.trust(found)
    assert kinds(actions) == ["Revoke", "IssueLeaves", "Converge"]
    assert actions[0].describe() == "trust tree: revoke p3/etcd-client, p3/etcd-peer"
    assert actions[2].where() == ("p1", "p2", "p3")


def test_revoked_certificates_are_not_revoked_again() -> None:
    found = replace(noted(three(), "p3", {"0a": NOTES["0a"]}), replacing=("p3",))
    there = replace(found.trust, rotations=Rotations(1, revoked=(LEAKED,)))
    assert trust.revoke(replace(found, trust=there), ("p3",)) == []


def test_certificates_that_the_machine_still_has_stay_valid() -> None:
    """As for a machine that was reinstalled on its old disks, and got its certificates already."""
    found = three()
    key = certificates.new_key()
    profile = certificates.Profile("p3", "lab", ("client",), dt.timedelta(days=9))
    one = certificates.sign(profile, key, None, dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    pem = certificates.certificate_pem(one).decode()
    there = replace(found.facts["p3"], certificates={"/etc/etcd/pki/client.crt": pem})
    found = replace(found, facts={**found.facts, "p3": there}, replacing=("p3",))
    notes = {f"{one.serial_number:032x}": f"etcd-client {END}"}
    assert trust.revoke(noted(found, "p3", notes), ("p3",)) == []
    assert len(trust.revoke(noted(found, "p3", notes | NOTES), ("p3",))) == 3


def test_primer_that_leaves_is_revoked_after_it_was_stopped_and_before_it_is_forgotten() -> None:
    actions = leaving.plan(noted(three(2), "p3", NOTES))
    assert kinds(actions) == [
        "RemoveMember", "Stop", "DeleteNode", "Revoke", "IssueLeaves", "Converge", "Forget",
    ]  # fmt: skip
    revoke = actions[3]
    assert isinstance(revoke, Revoke)
    assert [one.serial for one in revoke.found] == ["0a", "0b"]
    assert actions[5].where() == ("p1", "p2")


@pytest.mark.parametrize(
    "text", ["[]", '{"0a": "etcd-client"}', '{"xy": "etcd-client 2027-01-01T00:00:00+00:00"}',
             '{"0a": "etcd-client 2027-01-01T00:00:00"}'],
)  # fmt: skip
def test_note_that_is_invalid_is_an_error_with_its_key(text: str) -> None:
    with pytest.raises(HostError, match="/keystone/leaves/p3: not a record"):
        known.leaves({f"{known.LEAVES}p3": text}, "p3")


def test_primer_without_a_note_has_none() -> None:
    assert known.leaves({}, "p3") == {}
