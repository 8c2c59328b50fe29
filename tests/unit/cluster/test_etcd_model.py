"""The planner against every cluster of one to five members: no step of it is unsafe.

A state says for each member whether it votes, how it does and whether the site file wants it, which
member leads, and how many wanted Primers are no members yet. All of them are examined, so a failure
between two steps needs no case of its own: it leads to another state of the list. A step that is
not done leaves its state; otherwise each is tried with every outcome: it is done, half done, or
what it started is late.
Members that differ in nothing but their name are examined once, under names in two orders.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, combinations_with_replacement, product
from typing import TYPE_CHECKING

import pytest
from tests.life import figures

from keystone import log
from keystone.cluster import etcd
from keystone.cluster.etcd import (
    AddLearner,
    Await,
    Bootstrap,
    Health,
    Member,
    MoveLeader,
    Nothing,
    Promote,
    Refuse,
    Remove,
    Start,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

quorum = etcd.quorum
SERVES, LAGS, STOPPED, BLANK, UNKNOWN, NEW = "serves", "lags", "stopped", "blank", "unknown", "new"
STATUSES = (SERVES, LAGS, STOPPED, BLANK, UNKNOWN)
"""UNKNOWN: silent on a host that was not observed. NEW: a learner that was added and never ran."""
LONGEST = 40


@dataclass(frozen=True, order=True)
class One:
    """One member."""

    wanted: bool
    learner: bool
    status: str
    leads: bool = False

    @property
    def up(self) -> bool:
        return self.status in (SERVES, LAGS)


@dataclass(frozen=True)
class State:
    """A cluster. absent: the number of wanted Primers that are no members. Members are sorted."""

    members: tuple[One, ...]
    absent: int

    @property
    def quorate(self) -> bool:
        voters = [one for one in self.members if not one.learner]
        return sum(one.up for one in voters) >= quorum(len(voters))

    @property
    def wanted(self) -> int:
        return self.absent + sum(one.wanted for one in self.members)


def made(members: list[One], absent: int) -> State:
    """Return the state in its one form: sorted, and without a leader if it has no majority."""
    state = State(tuple(sorted(members)), absent)
    if not state.quorate and any(one.leads for one in members):
        return made([replace(one, leads=False) for one in members], absent)
    return state


@cache
def states() -> tuple[State, ...]:
    """Return every cluster of one to five members with at most one learner, for every target."""
    return tuple(_states())


def _states() -> Iterator[State]:
    voters = [
        One(wanted=wanted, learner=False, status=status)
        for wanted, status in product((True, False), STATUSES)
    ]
    learners = [
        One(wanted=wanted, learner=True, status=status)
        for wanted, status in product((True, False), (*STATUSES, NEW))
    ]
    for size in range(1, 6):
        for chosen in combinations_with_replacement(voters, size):
            for learner in [None, *learners] if size < 5 else [None]:
                every = [*chosen, *([learner] if learner else [])]
                wanted = sum(one.wanted for one in every)
                for absent in range(int(wanted == 0), 6 - wanted):
                    yield from with_leaders(every, absent)


def with_leaders(members: list[One], absent: int) -> Iterator[State]:
    """Return the state without a known leader, and with each voter that can lead."""
    found = {made(members, absent)}
    for number, one in enumerate(members):
        if one.status == SERVES and not one.learner:
            led = [replace(m, leads=True) if n == number else m for n, m in enumerate(members)]
            found.add(made(led, absent))
    yield from found


def names(state: State, order: str) -> list[str]:
    """Return a name for each member, then for each absent one. order: what comes first."""
    every = [*(one.wanted for one in state.members), *[True] * state.absent]
    prefixes = {"wanted": {True: "a", False: "b"}, "others": {True: "b", False: "a"}}[order]
    return [f"{prefixes[wanted]}{number:02}" for number, wanted in enumerate(every)]


def step_of(state: State, named: list[str], *, listed: bool = True) -> Step:
    """Return the planner's step. listed: the cluster answers `member list`."""
    pairs = list(zip(named, state.members, strict=False))

    def those(*statuses: str) -> frozenset[str]:
        return frozenset(name for name, one in pairs if one.status in statuses)

    health = Health(
        serving=those(SERVES, LAGS),
        with_data=those(SERVES, LAGS, STOPPED),
        formed=True,
        lagging=those(LAGS),
        unknown=those(UNKNOWN),
        leader=next((name for name, one in pairs if one.leads), ""),
    )
    members = tuple(Member(name, one.learner, one.status != NEW) for name, one in pairs)
    target = tuple(n for n, one in pairs if one.wanted) + tuple(named[len(pairs) :])
    return etcd.next_step(members if listed else (), health, target)


def unsafe(state: State, named: list[str], step: Step) -> str:
    """Say what is unsafe about the step, "" if nothing is."""
    there = dict(zip(named, state.members, strict=False))
    voters = {name: one for name, one in there.items() if not one.learner}
    if isinstance(step, Start):
        fine = step.names and all(there[name].status in (STOPPED, NEW) for name in step.names)
        return "" if fine else "starts nobody, or a member that has no data, or that runs"
    if isinstance(step, Nothing | Refuse | Await):
        return ""
    if not state.quorate:
        return "changes members without a majority"
    found = {
        AddLearner: _unsafe_addition,
        Promote: _unsafe_promotion,
        MoveLeader: _unsafe_move,
        Remove: _unsafe_removal,
    }
    if isinstance(step, Bootstrap):
        return "makes a second cluster"
    return found[type(step)](there, voters, step.name)


def _unsafe_addition(there: dict[str, One], _voters: dict[str, One], name: str) -> str:
    if name in there:
        return "adds a member"
    if any(one.learner for one in there.values()):
        return "adds a second learner"
    return "" if all(one.up for one in there.values()) else "adds before a dead one is removed"


def _unsafe_promotion(there: dict[str, One], voters: dict[str, One], name: str) -> str:
    if there[name].status != SERVES or not there[name].learner:
        return "promotes a member that lags, is silent or votes"
    return _majority({**voters, name: there[name]})


def _unsafe_move(_there: dict[str, One], voters: dict[str, One], name: str) -> str:
    fit = name in voters and voters[name].status == SERVES
    return "" if fit else "makes a member lead that lags, is silent or does not vote"


def _unsafe_removal(there: dict[str, One], voters: dict[str, One], name: str) -> str:
    gone, rest = there[name], {n: one for n, one in voters.items() if n != name}
    if gone.wanted and (gone.up or gone.status in (STOPPED, UNKNOWN)):
        return "removes a wanted member that may have data"
    if gone.leads:
        return "removes the leader"
    if gone.up and not gone.learner:
        fit = sum(one.status == SERVES for one in rest.values())
        if fit < quorum(len(rest)):
            return "removes a member that the majority needs"
    return _majority(rest)


def _majority(voters: dict[str, One]) -> str:
    up = sum(one.up for one in voters.values())
    return "" if voters and up >= quorum(len(voters)) else "loses the majority"


def outcomes(state: State, named: list[str], step: Step) -> list[State]:
    """Return what the step may lead to; the first is the one in which it is done."""
    every, absent = list(state.members), state.absent
    at = {name: number for number, name in enumerate(named)}

    def changed(statuses: dict[str, str], **more: bool) -> State:
        now = [
            replace(one, status=statuses[named[n]], **more) if named[n] in statuses else one
            for n, one in enumerate(every)
        ]
        return made(now, absent)

    found: list[State] = []
    match step:
        case Start(chosen):
            parts = [part for n in range(len(chosen), 0, -1) for part in combinations(chosen, n)]
            found = [changed(dict.fromkeys(p, status)) for status in (SERVES, LAGS) for p in parts]
        case AddLearner():
            new = [One(wanted=True, learner=True, status=one) for one in (SERVES, LAGS, NEW)]
            found = [made([*every, one], absent - 1) for one in new]
        case Promote(name):
            found = [changed({name: status}, learner=False) for status in (SERVES, LAGS)]
        case Await(late):
            found = [changed(dict.fromkeys(late, status)) for status in (SERVES, STOPPED)]
        case MoveLeader(name):
            unled = [replace(one, leads=False) for one in every]
            led = [replace(one, leads=n == at[name]) for n, one in enumerate(unled)]
            found = [made(now, absent) for now in (led, unled)]
        case Remove(name):
            # A wanted machine is absent then; an unwanted one is not in the state any more.
            rest = [one for n, one in enumerate(every) if n != at[name]]
            found = [made(rest, absent + every[at[name]].wanted)]
    return found


def explore(order: str, *, enough: int = 0) -> tuple[dict[State, State | None], list[object]]:
    """Try the planner's step in every state; return what each leads to, and the unsafe ones.

    enough: stop after so many unsafe steps.
    """
    left = set(states())
    seen, done, wrong = set(left), {}, []
    while left and not (enough and len(wrong) >= enough):
        state = left.pop()
        named = names(state, order)
        step = step_of(state, named)
        if why := unsafe(state, named, step):
            wrong.append((why, step, state))
        results = outcomes(state, named, step)
        done[state] = results[0] if results else None
        new = set(results) - seen
        left |= new
        seen |= new
    return done, wrong


@pytest.mark.parametrize("order", ["wanted", "others"])
def test_no_step_is_unsafe_whatever_becomes_of_it(
    order: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    done, wrong = explore(order)
    seconds = time.monotonic() - began
    with capsys.disabled():
        log.info(f"{len(done)} states, {seconds:.0f} s, {len(wrong)} unsafe steps")
    figures.record(f"model-unsafe-{order}", len(wrong), f"{len(done)} states")
    figures.record(f"model-seconds-{order}", seconds, f"{len(done)} states")
    assert not wrong, wrong[:5]
    fine: set[State] = set()
    for start in done:
        assert_ends(done, start, order, fine)


def assert_ends(
    done: dict[State, State | None], start: State, order: str, fine: set[State]
) -> None:
    """The state reaches its target if its steps succeed, or is refused for a reason."""
    state, way = start, [start]
    while state not in fine and (after := done[state]) is not None:
        assert after != state, (start, state)
        assert len(way) < LONGEST, (start, state)
        state = after
        way.append(state)
    if state not in fine:
        assert_end(state, order)
    fine |= set(way)


def assert_end(state: State, order: str) -> None:
    step = step_of(state, names(state, order))
    if isinstance(step, Nothing):
        assert not state.absent, state
        assert all(one.wanted and one.up and not one.learner for one in state.members), state
    else:
        assert isinstance(step, Refuse), (state, step)
        silent = any(one.wanted and one.status == UNKNOWN for one in state.members)
        assert not state.quorate or silent, (state, step)


def test_members_that_do_not_answer_are_started_or_refused() -> None:
    """Without a majority etcd does not even list its members: no second cluster is made."""
    for state in states():
        step = step_of(state, names(state, "wanted"), listed=False)
        assert isinstance(step, Start | Refuse), (state, step)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("removal", lambda _members, _health, _target, name: Remove(name)),
        ("_with_learner", lambda name, _health, _wanted: Promote(name)),
        ("quorum", lambda voters: voters // 2),
    ],
)
def test_model_finds_a_planner_with_a_fault(
    function: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, function, fault)
    assert explore("wanted", enough=1)[1]
