"""The plan of a rotation: stages in order, the leader last, and what an interrupted run left."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.install.test_phases import state as installed

from keystone.cluster.readers import KUBEADM
from keystone.errors import RefusedError
from keystone.hosts.facts import RoleFacts
from keystone.install import engine, renewal, rotate, rotation, standing
from keystone.install import rotation_actions as act
from keystone.install.rotation import State
from keystone.pki.plan import TrustFacts
from keystone.pki.rotation import (
    DROPPED,
    LEAVES,
    REISSUED,
    ROOT,
    TRUSTED,
    Revoked,
    Rotation,
    Rotations,
)
from keystone.site.model import Networks, Node, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.install.rotation_actions import World

SITE = Site(
    "north",
    tuple(Node(f"p{number}", IPv4Address(f"10.77.0.1{number}")) for number in (1, 2, 3)),
    Networks(IPv4Network("10.77.0.0/24")),
)
HOSTS = [node.name for node in SITE.primers]


def seen(
    name: str, stage: str = "", *, late: str = "", first: int = 0,
    behind: Mapping[str, tuple[str, ...]] | None = None, number: int = 1, leader: str = "p1",
) -> State:  # fmt: skip
    """Return a state in which all but the hosts in `late` have the tree's files."""
    running = {name: Rotation(stage, "")} if stage else {}
    wanted = dict.fromkeys(HOSTS, "digest")
    trust = TrustFacts(wanted=wanted, rotations=Rotations(number, running), due=frozenset())
    facts = {}
    for node in SITE.primers:
        inputs = str(act.variables(SITE, node, trust)["trust_inputs"])
        role = RoleFacts("old" if node.name in late.split() else inputs)
        facts[node.name] = replace(installed().facts["p1"], name=node.name, roles={"trust": role})
    return State(SITE, name, facts, trust, first, behind or {}, leader)


def planned(state: State) -> list[tuple[str, str]]:
    made = engine.make_plan(rotation.phases(state), state)
    return [(phase.phase, type(a).__name__) for phase in made.phases for a in phase.actions]


def hosts(state: State) -> list[str]:
    made = engine.make_plan(rotation.phases(state), state)
    return [a.host for p in made.phases for a in p.actions if isinstance(a, act.Place)]


def test_new_rotation_plans_all_stages_with_the_leader_last() -> None:
    state = seen("etcd-peer", leader="p2")
    stages = [stage for stage, _ in planned(state)]
    assert stages == [TRUSTED] * 7 + [REISSUED] * 7 + [DROPPED] * 7
    assert planned(state)[0] == (TRUSTED, "Advance")
    assert hosts(state) == ["p1", "p3", "p2"] * 3


def test_interrupted_stage_is_finished_on_the_hosts_that_are_left() -> None:
    state = seen("etcd-peer", TRUSTED, late="p3", behind={"p2": ("etcd",)})
    first = [action for stage, action in planned(state) if stage == TRUSTED]
    assert first == ["CatchUp", "Place", "CatchUp"]
    assert planned(state)[3] == (REISSUED, "Advance")


def test_cut_last_stage_is_finished_and_no_other_rotation_begins() -> None:
    state = seen("etcd-peer", DROPPED, first=1, behind={"p1": ("etcd",)})
    assert planned(state) == [(DROPPED, "CatchUp")]


def test_finished_rotation_can_begin_again() -> None:
    assert planned(seen("etcd-peer", DROPPED, first=1))[0] == (TRUSTED, "Advance")


def test_stage_that_was_just_reached_plans_nothing_more() -> None:
    for stage in (TRUSTED, REISSUED, DROPPED):
        assert rotation.plan(seen("etcd-peer", stage, number=4, first=3), stage) == []


@pytest.mark.parametrize(
    ("name", "stage", "kinds"),
    [("kubernetes", TRUSTED, ["FollowHere", "WaitNodes", "Roll"]),
     ("kubernetes", REISSUED, ["FollowHere", "WaitNodes"]),
     ("kubernetes", DROPPED, ["FollowHere", "WaitNodes", "Roll"]),
     ("site", TRUSTED, ["FollowHere", "WaitNodes"]),
     ("front-proxy", TRUSTED, [])],
)  # fmt: skip
def test_nodes_and_pods_follow_before_the_next_stage(
    name: str, stage: str, kinds: list[str]
) -> None:
    found = [action for at, action in planned(seen(name)) if at == stage]
    assert found[7:] == kinds


def test_nodes_that_have_not_followed_hold_the_stage() -> None:
    state = replace(seen("kubernetes", TRUSTED), nodes=("w1",))
    assert planned(state)[:2] == [(TRUSTED, "FollowHere"), (TRUSTED, "WaitNodes")]


def test_last_stage_of_service_accounts_waits_for_tokens() -> None:
    dropped = [action for stage, action in planned(seen("sa")) if stage == DROPPED]
    assert dropped[:2] == ["WaitTokens", "Advance"]


def test_leaves_are_issued_once_and_a_cut_run_is_finished_first() -> None:
    state = seen(LEAVES, first=1)
    assert planned(state)[0] == ("leaves", "ExpireLeaves")
    begun = replace(state.trust.rotations, leaves="2026-11-30T12:00:00+00:00")
    cut = replace(
        state, trust=replace(state.trust, rotations=begun), behind={"p3": (KUBEADM,)}
    )  # fmt: skip
    assert planned(cut) == [("leaves", "CatchUp")]


def test_new_root_is_placed_on_every_primer() -> None:
    assert [action for _, action in planned(seen(ROOT, first=1))] == ["NewRoot", *["Place"] * 3]
    cut = replace(seen(ROOT, late="p2"), given="the new root\n")
    there = replace(cut, trust=replace(cut.trust, root="the new root"))
    assert planned(there) == [("new root", "Place")]
    assert planned(replace(there, facts=seen(ROOT).facts)) == []


def test_plan_says_what_is_interrupted() -> None:
    (text,) = {
        action.describe() for action in rotation.plan(seen("etcd-peer"), TRUSTED)
        if isinstance(action, act.CatchUp) and action.host == "p1"
    }  # fmt: skip
    assert "the member is away for seconds" in text
    assert "API server" in text


def test_host_with_a_newer_tree_is_refused() -> None:
    state = seen("site")
    newer = replace(state.facts["p2"].standing, rotation=2)
    facts = {**state.facts, "p2": replace(state.facts["p2"], standing=newer)}
    (finding,) = standing.rotations(state.trust, facts, ("p1",))
    assert (finding.severity, finding.host) == ("refused", "p2")


LEAKED = Revoked("0a", "etcd-client", "p2/etcd-client", "2027-01-01T00:00:00+00:00")


def test_primer_gets_new_certificates_before_the_others_refuse_its_old_ones() -> None:
    state = replace(seen(rotation.REVOKED), wanted=(LEAKED,))
    assert planned(state)[0] == ("revocation", "Revoke")
    assert hosts(state) == ["p2", "p1", "p3"]


def test_cut_revocation_is_finished_and_nothing_is_revoked_twice() -> None:
    state = replace(seen(rotation.REVOKED, late="p3"), wanted=(LEAKED,))
    rotations = replace(state.trust.rotations, revoked=(LEAKED,))
    cut = replace(state, trust=replace(state.trust, rotations=rotations))
    assert planned(cut) == [("revocation", "Place")]
    assert hosts(cut) == ["p3"]
    assert planned(replace(cut, facts=seen(rotation.REVOKED).facts)) == []


def test_clocks_a_day_apart_stop_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    state = seen("site")
    ahead = {**state.facts, "p2": replace(state.facts["p2"], clock_offset=86400.0)}
    monkeypatch.setattr(renewal, "this_primer", lambda site: site.primers[0])
    trust = replace(state.trust, keys=("key1",))
    world = SimpleNamespace(state=replace(state, facts=ahead, trust=trust))
    with pytest.raises(RefusedError, match="p1, p2: have clocks that differ by"):
        rotate._require(cast("World", world))


def test_primer_that_does_not_answer_holds_no_revocation_up() -> None:
    state = replace(seen(rotation.REVOKED), wanted=(LEAKED,))
    facts = {name: one for name, one in state.facts.items() if name != "p2"}
    assert hosts(replace(state, facts=facts)) == ["p1", "p3"]
