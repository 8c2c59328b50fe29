"""The engine with minimal phases: the world is a dictionary, actions set its keys."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from keystone.errors import HostError, RefusedError
from keystone.install import engine

if TYPE_CHECKING:
    from pathlib import Path

Disk = dict[str, str]


@dataclass
class FakeWorld:
    """A host whose whole state is a dictionary; `observations` counts round trips."""

    disk: Disk = field(default_factory=dict)
    observations: int = 0

    def observe(self) -> Disk:
        self.observations += 1
        return dict(self.disk)


@dataclass(frozen=True)
class Set(engine.Action[FakeWorld]):
    key: str
    destructive: bool = False
    fails: bool = False
    no_effect: bool = False

    def describe(self) -> str:
        return f"set {self.key}"

    def apply(self, world: FakeWorld) -> None:
        if self.fails:
            raise HostError("h1: no")
        if not self.no_effect:
            world.disk[self.key] = "done"


def phase(key: str, **how: bool) -> engine.Phase[FakeWorld, Disk]:
    return engine.Phase(key, f"{key}!", lambda state: () if key in state else (Set(key, **how),))


def apply(
    world: FakeWorld,
    tmp_path: Path,
    *phases: engine.Phase[FakeWorld, Disk],
    approved: frozenset[str] = frozenset(),
) -> tuple[engine.Outcome, ...]:
    return engine.apply(
        phases,
        world,
        world.observe,
        first=world.observe(),
        approved=approved,
        journal=engine.Journal(tmp_path / "journal"),
    )


def test_applied_phases_plan_no_action_and_second_run_observes_once(tmp_path: Path) -> None:
    world = FakeWorld()
    phases = (phase("a"), phase("b"))
    outcomes = apply(world, tmp_path, *phases)
    assert [(o.phase, o.applied) for o in outcomes] == [("a", 1), ("b", 1)]
    assert engine.make_plan(phases, world.observe()).empty
    world.observations = 0
    assert [o.applied for o in apply(world, tmp_path, *phases)] == [0, 0]
    assert world.observations == 1


def test_later_phase_sees_result_of_earlier_phase(tmp_path: Path) -> None:
    world = FakeWorld()
    late: engine.Phase[FakeWorld, Disk] = engine.Phase(
        "late", "", lambda state: (Set("b"),) if "a" in state and "b" not in state else ()
    )
    apply(world, tmp_path, phase("a"), late)
    assert world.disk == {"a": "done", "b": "done"}


def test_phase_fails_if_it_still_needs_an_action_after_apply(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="still needs: set a"):
        apply(FakeWorld(), tmp_path, phase("a", no_effect=True))


def test_destructive_action_is_refused_unless_approved_by_description(tmp_path: Path) -> None:
    world, wipe = FakeWorld(), phase("a", destructive=True)
    with pytest.raises(RefusedError, match="set a"):
        apply(world, tmp_path, wipe)
    assert world.disk == {}
    approved = engine.make_plan((wipe,), {}).destructive
    apply(world, tmp_path, wipe, approved=approved)
    assert world.disk == {"a": "done"}


def test_run_after_a_failure_resumes_at_the_failed_phase(tmp_path: Path) -> None:
    world = FakeWorld()
    with pytest.raises(HostError):
        apply(world, tmp_path, phase("a"), phase("b", fails=True))
    assert [o.applied for o in apply(world, tmp_path, phase("a"), phase("b"))] == [0, 1]
    events = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [(e["phase"], e["event"]) for e in events] == [
        ("a", "start"), ("a", "done"), ("b", "start"), ("b", "failed"),
        ("b", "start"), ("b", "done"),
    ]  # fmt: skip


def test_plan_id_depends_only_on_destructive_actions() -> None:
    one = engine.make_plan((phase("a", destructive=True), phase("b")), {})
    same = engine.make_plan((phase("a", destructive=True),), {})
    other = engine.make_plan((phase("c", destructive=True),), {})
    assert one.id == same.id != other.id
