"""The quorum in a plan: members are added one by one, and what is not safe is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.install.test_phases import state

from keystone.ansible import playbook
from keystone.cluster import etcd
from keystone.cluster.facts import ClusterFacts, EtcdFacts, MemberFacts, NodeFacts
from keystone.cluster.known import PRIMERS, dump
from keystone.errors import HostError, RefusedError
from keystone.hosts.facts import RoleFacts, StandingFacts
from keystone.install import identity, leaving, members, quorum
from keystone.install.actions import Converge, World
from keystone.install.state import State

THREE = {1: "p1", 2: "p2", 3: "p3"}


RECORD = "record the Primers' machines in etcd"


def member(
    number: int, *, healthy: bool = True, learner: bool = False, new: bool = False, **more: Any
) -> MemberFacts:
    name = "" if new else f"p{number}"
    url = f"https://10.77.0.1{number}:2380"
    answers = healthy or (learner and not new)
    return MemberFacts(f"{number:x}", name, healthy, learner, (url,), answers=answers, **more)


def seen(*members: MemberFacts, data: str = "", size: int = 3, recorded: bool = True) -> State:
    """Return a site of Primers; those in `data` have a member and are converged.

    recorded: etcd has the records of three Primers.
    """
    there = state()
    kept = identity.wanted(there) if recorded else {}
    facts = dict(there.facts)
    there = replace(there, site=replace(there.site, primers=there.site.primers[:size]))
    for name in data.split():
        standing = StandingFacts(member=True, initial=("p1=https://10.77.0.11:2380", "new"))
        facts[name] = replace(facts[name], standing=standing)
    found = replace(there, facts=facts, etcd=EtcdFacts(members, kept))
    for name in data.split():
        node = next((node for node in found.site.primers if node.name == name), None)
        if node is None:
            del facts[name]
            continue
        marker = RoleFacts(str(found.variables(node, "etcd")["etcd_inputs"]))
        facts[name] = replace(facts[name], roles={"etcd": marker})
    there = {node.name: facts[node.name] for node in found.site.primers}
    return replace(found, facts=there, here="p1")


def planned(found: State) -> list[str]:
    return [action.describe() for action in quorum.plan(found)]


def test_new_quorum_starts_on_all_hosts_together() -> None:
    assert planned(state()) == [
        "p1 p2 p3: converge etcd", "wait until 3 etcd members are healthy", RECORD,
    ]  # fmt: skip


def test_healthy_quorum_as_wanted_plans_nothing() -> None:
    assert planned(seen(*map(member, THREE), data="p1 p2 p3")) == []


def test_one_member_grows_to_three_one_after_another() -> None:
    assert planned(seen(member(1), data="p1")) == [
        "etcd: add p2 (https://10.77.0.12:2380) as a learner",
        "p2: converge etcd",
        "etcd: make p2 a voter when it has caught up",
        "etcd: add p3 (https://10.77.0.13:2380) as a learner",
        "p3: converge etcd",
        "etcd: make p3 a voter when it has caught up",
        "wait until 3 etcd members are healthy",
    ]


def test_interrupted_growth_starts_the_learner_that_was_added() -> None:
    found = seen(member(1), member(2, healthy=False, learner=True, new=True), data="p1")
    assert planned(found)[:2] == [
        "p2: converge etcd",
        "etcd: make p2 a voter when it has caught up",
    ]


def test_interrupted_bootstrap_starts_again_on_all_hosts() -> None:
    """One member had started and waits for the others: no quorum was formed yet."""
    there = seen(data="p1")
    facts = {**there.facts, "p1": replace(there.facts["p1"], roles={})}
    assert planned(replace(there, facts=facts))[0] == "p1 p2 p3: converge etcd"


def test_stopped_member_with_its_data_is_started() -> None:
    found = seen(member(1), member(2), member(3, healthy=False), data="p1 p2 p3")
    assert planned(found)[0] == "p3: converge etcd"


def test_member_whose_machine_is_blank_is_refused() -> None:
    found = seen(member(1), member(2), member(3, healthy=False), data="p1 p2")
    with pytest.raises(RefusedError, match=r"p3: etcd lists it .* no data of etcd") as caught:
        quorum.plan(found)
    assert "node replace p3" in caught.value.hint


def test_member_of_a_replaced_machine_is_removed_and_added_again() -> None:
    found = seen(member(1), member(2), member(3, healthy=False), data="p1 p2")
    known = {**found.known, "p3": replace(found.known["p3"], machine_id="old")}
    kept = {f"{PRIMERS}{name}": dump(one) for name, one in known.items()}
    assert found.etcd is not None
    found = replace(found, replacing=("p3",), etcd=replace(found.etcd, kept=kept))
    actions = quorum.plan(found)
    now = found.facts["p3"].machine_id
    assert [action.describe() for action in actions] == [
        "etcd: remove the member p3 (3): its machine was replaced",
        "etcd: add p3 (https://10.77.0.13:2380) as a learner",
        "p3: converge etcd",
        "etcd: make p3 a voter when it has caught up",
        "wait until 3 etcd members are healthy",
        f"{RECORD}: p3 is another machine: machine id {now} (known: old)",
    ]
    assert [action.by_id for action in actions] == [True, False, False, False, False, True]
    assert [action.destructive for action in actions] == [action.by_id for action in actions]


def test_first_run_with_a_running_quorum_records_its_machines() -> None:
    assert planned(seen(*map(member, THREE), data="p1 p2 p3", recorded=False)) == [RECORD]


def test_new_primer_with_data_of_another_cluster_is_refused() -> None:
    found = seen(member(1), member(2), data="p1 p2 p3")
    with pytest.raises(RefusedError, match="p3: has data of etcd, and the quorum does not list it"):
        quorum.plan(found)


def shrunk(size: int, *members: MemberFacts) -> State:
    return seen(*members, data="p1 p2 p3", size=size)


def test_live_member_leaves_last_and_the_leader_after_the_others() -> None:
    """API servers still use it when etcd's own phase runs."""
    found = shrunk(1, member(1), member(2, leads=True), member(3))
    assert planned(found) == []
    assert [action.describe() for action in leaving.plan(found)] == [
        "etcd: remove the member p3 (3): the site file does not name it",
        "p3 (10.77.0.13): stop Kubernetes, etcd and registry there, remove the site's keys from it",
        "delete the node p3 of the cluster",
        "forget the machine of p3",
        "etcd: remove the member p2 (2): the site file does not name it",
        "p2 (10.77.0.12): stop Kubernetes, etcd and registry there, remove the site's keys from it",
        "delete the node p2 of the cluster",
        "forget the machine of p2",
    ]


def test_dead_member_that_the_site_file_does_not_name_is_removed_at_once() -> None:
    found = shrunk(2, member(1), member(2), member(3, healthy=False))
    assert planned(found) == [
        "etcd: remove the member p3 (3): the site file does not name it",
        "wait until 2 etcd members are healthy",
    ]


def test_interrupted_removal_goes_on_from_the_record() -> None:
    found = shrunk(2, member(1), member(2))
    nodes = ClusterFacts((NodeFacts("p1", ready=True), NodeFacts("p2", ready=True)))
    found = replace(found, cluster=nodes)
    assert [type(action).__name__ for action in leaving.plan(found)] == ["Stop", "Forget"]


def test_node_that_leaves_is_drained_first() -> None:
    found = shrunk(2, member(1, leads=True), member(2), member(3))
    node = NodeFacts("p3", ready=True)
    kinds = [
        type(one).__name__ for one in leaving.plan(replace(found, cluster=ClusterFacts((node,))))
    ]
    assert kinds == ["Drain", "RemoveMember", "Stop", "DeleteNode", "Forget"]


def test_member_that_lags_is_waited_for_before_another_one_leaves() -> None:
    found = shrunk(2, member(1, leads=True), member(2, behind=10**6), member(3))
    assert etcd.next_step(*members.observed(found), ("p1", "p2")) == etcd.Await(("p2",))
    assert [type(one).__name__ for one in leaving.plan(found)][:1] == ["RemoveMember"]


def test_lost_majority_is_an_error_that_names_the_restore() -> None:
    found = seen(data="p1")
    with pytest.raises(HostError, match="no etcd member answers") as caught:
        quorum.plan(found)
    assert "restore" in caught.value.hint


def test_learner_starts_with_the_list_of_members_and_itself() -> None:
    found = seen(member(1), member(2, healthy=False, learner=True, new=True), data="p1")
    p1, p2, _ = found.site.primers
    told = found.variables(p2, "etcd")
    assert told["etcd_initial_cluster"] == ("p1=https://10.77.0.11:2380,p2=https://10.77.0.12:2380")
    assert told["etcd_initial_cluster_state"] == "existing"
    assert found.variables(p1, "etcd")["etcd_initial_cluster_state"] == "new"
    json.dumps(playbook.as_data(told))


def test_growth_does_not_change_the_configuration_of_a_running_member() -> None:
    """Its initial list is what it was started with: another one would restart it."""
    before, after = seen(member(1), data="p1"), seen(*map(member, THREE), data="p1 p2 p3")
    node = before.site.primers[0]
    assert before.variables(node, "etcd") == after.variables(node, "etcd")


def test_steps_lead_to_the_target_as_next_step_decides() -> None:
    members = (etcd.Member("p1"),)
    health = etcd.Health(frozenset({"p1"}), frozenset({"p1"}), formed=True)
    kinds = [type(step).__name__ for step in etcd.steps(members, health, ("p1", "p2", "p3"))]
    assert kinds == ["AddLearner", "Promote", "AddLearner", "Promote"]


def slow(found: State, milliseconds: float) -> State:
    measured = json.dumps({"round_trip_ms": milliseconds, "sync_ms": 1.0})
    facts = {
        name: replace(
            host,
            standing=replace(host.standing, timing=(100, 1000)),
            upkeep={"timing": measured},
        )
        for name, host in found.facts.items()
    }
    return replace(found, facts=facts)


def test_slow_network_plans_another_timing_for_all_members() -> None:
    found = slow(seen(*map(member, THREE), data="p1 p2 p3"), 120)
    first, wait = planned(found)
    assert first == (
        "p1 p2 p3: converge etcd: heartbeat 100 -> 250 ms, election 1000 -> 2500 ms (round trip "
        "120 ms, sync of the disk 1 ms); members restart one by one, the leader last"
    )
    assert wait == "wait until 3 etcd members are healthy"
    told = [found.variables(node, "etcd") for node in found.site.primers]
    assert {(one["etcd_heartbeat_ms"], one["etcd_election_ms"]) for one in told} == {(250, 2500)}


def test_usual_network_plans_nothing() -> None:
    assert planned(slow(seen(*map(member, THREE), data="p1 p2 p3"), 2)) == []


@pytest.mark.parametrize(
    ("leads", "order"), [(1, ("p2", "p3", "p1")), (3, ("p1", "p2", "p3")), (0, ("p1", "p2", "p3"))]
)
def test_leader_restarts_last(
    leads: int, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    converged = []
    monkeypatch.setattr(Converge, "apply", lambda self, _world: converged.append(self.hosts))
    there = [member(number, leads=number == leads) for number in THREE]
    found = slow(seen(*there, data="p1 p2 p3"), 120)
    monkeypatch.setattr(members, "refresh", lambda _world: found)
    world = World(bundle=None, hosts={}, passphrase=str, observe=lambda: found, state=found)
    quorum.plan(found)[0].apply(world)
    assert converged == [order]
