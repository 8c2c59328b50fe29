"""Waiting: what is looked at, how often, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from keystone import actions
from keystone.errors import HostError

if TYPE_CHECKING:
    from keystone.actions import World
    from keystone.bundle import Bundle
    from keystone.state import State


@dataclass
class Clock:
    """Seconds that pass when somebody sleeps or looks."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass(frozen=True)
class Until(actions._WaitState):
    """Holds at a number of looks, each of which takes some seconds."""

    clock: Clock
    looks: int
    seconds: float

    def describe(self) -> str:
        return "wait until it was looked at often enough"

    def look(self, world: World) -> State:
        self.clock.now += self.seconds
        return cast("State", cast("int", world.seen) + 1)

    def satisfied(self, state: State) -> bool:
        return cast("int", state) >= self.looks

    def patience(self, state: State) -> float:
        return 300


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(actions, "time", made)
    return made


def world() -> World:
    return actions.World(
        bundle=cast("Bundle", None),
        hosts={},
        passphrase=str,
        observe=lambda: pytest.fail("a wait looks at what it waits for, not at everything"),
        state=cast("State", 0),
    )


def test_it_ends_at_the_first_look_without_a_pause(clock: Clock) -> None:
    Until(clock, looks=1, seconds=2).apply(world())
    assert clock.slept == []


def test_looking_takes_a_quarter_of_the_time_at_most(clock: Clock) -> None:
    Until(clock, looks=5, seconds=20).apply(world())
    assert clock.slept == [60, 60, 60, 60]


def test_a_quick_look_is_taken_often_at_first(clock: Clock) -> None:
    Until(clock, looks=45, seconds=0.1).apply(world())
    assert clock.slept[0] == 0.5
    assert max(clock.slept) == 15


def test_what_came_true_is_seen_soon(clock: Clock) -> None:
    """Late by an eighth of the time that it took, and by no more than 15 seconds."""
    Until(clock, looks=45, seconds=0.1).apply(world())
    passed = 0.0
    for pause in clock.slept:
        passed += 0.1
        assert pause <= max(0.5, min(passed / 8, 15))
        passed += pause


def test_there_is_an_end(clock: Clock) -> None:
    with pytest.raises(HostError, match="no end of waiting: wait until it was looked at"):
        Until(clock, looks=10**6, seconds=1).apply(world())
    assert 300 < clock.now < 330
