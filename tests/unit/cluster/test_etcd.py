"""Quorum arithmetic: single decisions, then every possible state of small clusters."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

import pytest

from keystone.cluster import etcd
from keystone.cluster.etcd import (
    AddLearner,
    Bootstrap,
    Health,
    Member,
    Nothing,
    Promote,
    Refuse,
    Remove,
    Start,
    Step,
    next_step,
)
from keystone.site.model import Networks, Node, Site

P = ("p1", "p2", "p3")
ALL = tuple(Member(name) for name in P)


def health(serving: str = "", data: str = "", *, formed: bool = True) -> Health:
    return Health(
        frozenset(f"p{digit}" for digit in serving),
        frozenset(f"p{digit}" for digit in data),
        formed,
    )


@pytest.mark.parametrize(
    ("members", "seen", "step"),
    [
        ((), health(formed=False), Bootstrap(P)),
        ((), health(data="13", formed=False), Bootstrap(P)),
        ((), health(data="123"), Start(P)),
        ((), health(data="23"), Start(("p2", "p3"))),
        (ALL, health("123", "123"), Nothing()),
        (ALL, health("12", "123"), Start(("p3",))),
        (ALL, health("12", "12"), Remove("p3")),
        (ALL, health("1", "13"), Start(("p3",))),
        (ALL[:2], health("12", "12"), AddLearner("p3")),
        ((*ALL[:2], Member("p3", learner=True)), health("123", "123"), Promote("p3")),
        ((*ALL[:2], Member("p3", learner=True)), health("12", "123"), Start(("p3",))),
        ((*ALL, Member("p9")), Health(frozenset(("p1", "p2", "p3", "p9"))), Remove("p9")),
    ],
)
def test_next_step(members: tuple[Member, ...], seen: Health, step: Step) -> None:
    assert next_step(members, seen, P) == step


@pytest.mark.parametrize(
    ("members", "seen"),
    [((), health(data="1")), (ALL, health("1", "1")), (ALL, health("1"))],
)
def test_lost_majority_is_refused_with_hint_to_restore_a_snapshot(
    members: tuple[Member, ...], seen: Health
) -> None:
    step = next_step(members, seen, P)
    assert isinstance(step, Refuse)
    assert "snapshot" in step.hint


State = tuple[tuple[Member, ...], Health]


def states() -> list[State]:
    """Return all clusters of 1 to 4 members, at most one a learner, with all sets of dead ones."""
    names = ("p1", "p2", "p3", "p4")
    found: list[State] = []
    for size in range(1, 5):
        for chosen in combinations(names, size):
            for learner in (None, *chosen) if size > 1 else (None,):
                members = tuple(Member(name, learner=name == learner) for name in chosen)
                for serving in subsets(chosen):
                    dead = [name for name in chosen if name not in serving]
                    found += [
                        (members, Health(frozenset(serving), frozenset((*serving, *kept)), True))
                        for kept in subsets(dead)
                    ]
    return found


def subsets(names: tuple[str, ...] | list[str]) -> list[tuple[str, ...]]:
    return [chosen for size in range(len(names) + 1) for chosen in combinations(names, size)]


def has_quorum(members: tuple[Member, ...], seen: Health) -> bool:
    voters = {member.name for member in members if not member.learner}
    return len(voters & seen.serving) >= etcd.quorum(len(voters))


def follow(state: State, step: Step) -> State:
    """Return the state of a cluster after the step, as etcd behaves."""
    members, seen = state
    match step:
        case Start(names) | Bootstrap(names):
            return members, Health(seen.serving | set(names), seen.with_data | set(names), True)
        case AddLearner(name):
            assert not [member for member in members if member.learner], "one learner at a time"
            return (*members, Member(name, learner=True)), Health(
                seen.serving | {name}, seen.with_data | {name}, True
            )
        case Promote(name):
            return tuple(Member(m.name, m.learner and m.name != name) for m in members), seen
        case Remove(name):
            return tuple(m for m in members if m.name != name), Health(
                seen.serving - {name}, seen.with_data - {name}, True
            )
    return state


def test_every_state_reaches_the_target_or_is_refused_and_keeps_quorum() -> None:
    refused = 0
    for start in states():
        state = start
        for _ in range(20):
            step = next_step(*state, P)
            if isinstance(step, Nothing | Refuse):
                break
            quorate = has_quorum(*state)
            assert quorate or isinstance(step, Start), (start, state, step)
            after = follow(state, step)
            assert after != state, (start, state, step)
            if quorate:
                assert has_quorum(*after), (start, state, step)
            state = after
        else:
            pytest.fail(f"target not reached from {start}")
        if isinstance(step, Nothing):
            assert {member.name for member in state[0]} == set(P)
            assert not [member for member in state[0] if member.learner]
        else:
            refused += 1
            assert not has_quorum(*start), (start, step)
    assert 0 < refused < len(states()) / 2


def test_parse_status_joins_members_with_their_answers() -> None:
    members = [
        {"ID": 1, "name": "p1", "clientURLs": ["https://10.0.0.1:2379"]},
        {"ID": 2, "name": "p2", "clientURLs": ["https://10.0.0.2:2379"]},
        {"ID": 3, "name": "p3", "clientURLs": ["https://10.0.0.3:2379"]},
        {"ID": 4, "peerURLs": ["https://10.0.0.4:2380"], "isLearner": True},
    ]
    status = {"header": {"member_id": 2}, "version": "3.6.16", "leader": 2, "dbSize": 4096}
    learner = {"header": {"member_id": 3}, "version": "3.6.16", "leader": 2, "isLearner": True}
    answers = [
        {"Endpoint": "https://10.0.0.2:2379", "Status": status},
        {"Endpoint": "https://10.0.0.3:2379", "Status": {**learner, "errors": ["NOSPACE"]}},
    ]
    found = etcd.parse_status(members, answers)
    assert [(member.name, member.state) for member in found] == [
        ("p1", "silent"), ("p2", "leader"), ("p3", "learner"), ("(new)", "unstarted"),
    ]  # fmt: skip
    assert found[1].database_bytes == 4096
    assert found[2].errors == ("NOSPACE",)


def test_initial_cluster_token_and_timing_of_members() -> None:
    site = Site(
        "north",
        tuple(Node(f"p{n}", IPv4Address(f"10.77.0.1{n}")) for n in (1, 2, 3)),
        Networks(IPv4Network("10.77.0.0/24")),
    )
    assert etcd.initial_cluster(site.primers) == (
        "p1=https://10.77.0.11:2380,p2=https://10.77.0.12:2380,p3=https://10.77.0.13:2380"
    )
    assert etcd.cluster_token(site) == etcd.cluster_token(replace(site, primers=site.primers[:1]))
    assert etcd.cluster_token(site) != etcd.cluster_token(replace(site, name="south"))
    for timing in etcd.TIMINGS.values():
        assert 5 * timing.heartbeat <= timing.election <= 50_000
