"""The engine: observe, plan, show or apply, observe again, and then plan to nothing.

It knows nothing of Kubernetes or disks. A phase is a pure function from what is wanted and what
was observed to actions; an action is the only thing that changes a host. Resuming is running
again: the hosts are the truth, the journal is for people.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from keystone import log
from keystone.errors import HostError, KeystoneError, RefusedError
from keystone.files import again

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

World = TypeVar("World")
"""What actions act through: connections, the open bundle, directories."""
State = TypeVar("State")
"""What phases decide from: site, manifest and facts, all frozen."""


class Action(ABC, Generic[World]):
    """One change. Frozen dataclasses; equal fields mean the same action."""

    destructive: bool = False
    """It may lose data: it needs an approved plan that names it."""

    @abstractmethod
    def describe(self) -> str:
        """What it does, to which host, in one line."""

    def where(self) -> tuple[str, ...]:
        """The hosts that it works on, as far as it names them."""
        return tuple(getattr(self, "hosts", ()))

    @abstractmethod
    def apply(self, world: World) -> None:
        """Do it. Raises KeystoneError; must be safe to repeat after being cut anywhere."""


@dataclass(frozen=True)
class Phase(Generic[World, State]):
    """A step of an installation. plan: pure, from what was seen to the actions still needed."""

    name: str
    sentence: str
    plan: Callable[[State], Sequence[Action[World]]]


@dataclass(frozen=True)
class Planned(Generic[World]):
    """What one phase would do."""

    phase: str
    actions: tuple[Action[World], ...]


@dataclass(frozen=True)
class Plan(Generic[World]):
    """What the whole installation would do, as far as the first look can tell."""

    phases: tuple[Planned[World], ...]

    @property
    def empty(self) -> bool:
        """Nothing to do: the site is as it should be."""
        return not any(planned.actions for planned in self.phases)

    @property
    def destructive(self) -> frozenset[str]:
        """The destructive actions, in words; the words name hosts and serials."""
        return frozenset(
            action.describe()
            for planned in self.phases
            for action in planned.actions
            if action.destructive
        )

    @property
    def id(self) -> str:
        """Names exactly what would be destroyed; `--approve ID` in a later run means this."""
        return hashlib.sha256("\n".join(sorted(self.destructive)).encode()).hexdigest()[:12]


class Journal:
    """JSON lines of what was done and when, each synced; for people and support bundles only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **event: object) -> None:
        """Append one event with the time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": time.time(), **event}) + "\n"
        handle = again(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def make_plan(phases: Sequence[Phase[World, State]], state: State) -> Plan[World]:
    """Plan every phase from one observation. Pure."""
    return Plan(tuple(Planned(phase.name, tuple(phase.plan(state))) for phase in phases))


@dataclass(frozen=True)
class Outcome:
    """One phase as it went: number of actions applied and seconds taken."""

    phase: str
    applied: int
    seconds: float


def apply(
    phases: Sequence[Phase[World, State]],
    world: World,
    observe: Callable[[], State],
    *,
    first: State,
    approved: frozenset[str],
    journal: Journal,
) -> tuple[Outcome, ...]:
    """Apply phase after phase; each must plan to nothing once applied.

    first: the observation that the approved plan was made from. approved: descriptions of the
    destructive actions that a person agreed to. Raises RefusedError when another one turns up, and
    HostError when a phase still wants something after it was applied.
    """
    state, outcomes = first, []
    log.event(
        "phases",
        f"{len(phases)} phases",
        phases=[phase.name for phase in phases],
        sentences=[phase.sentence for phase in phases],
    )
    for number, phase in enumerate(phases, start=1):
        start = time.monotonic()
        actions = tuple(phase.plan(state))
        title = f"[{number}/{len(phases)}] {phase.name}"
        if not actions:
            log.info(f"= {title}: nothing to do", phase=phase.name, event="unchanged")
            outcomes.append(Outcome(phase.name, 0, 0.0))
            continue
        with log.step(f"{title}: {phase.sentence}", phase=phase.name):
            for action in actions:
                _apply_one(action, phase.name, world, approved, journal)
            state = observe()
            _require_nothing_left(phase, state)
        outcomes.append(Outcome(phase.name, len(actions), time.monotonic() - start))
    return tuple(outcomes)


def _apply_one(
    action: Action[World], phase: str, world: World, approved: frozenset[str], journal: Journal
) -> None:
    what = action.describe()
    if action.destructive and what not in approved:
        raise RefusedError(
            f"phase {phase}: {what}: not part of the plan that was approved",
            hint="look at the new plan with --plan, then run again and approve it",
        )
    journal.write(phase=phase, action=what, event="start")
    log.event("action", what, phase=phase, hosts=action.where())
    try:
        action.apply(world)
    except KeystoneError as error:
        journal.write(phase=phase, action=what, event="failed", error=error.message)
        raise
    journal.write(phase=phase, action=what, event="done")


def _require_nothing_left(phase: Phase[World, State], state: State) -> None:
    left = [action.describe() for action in phase.plan(state)]
    if left:
        raise HostError(
            f"phase {phase.name}: applied, and yet this is still to do: " + "; ".join(left),
            hint="run the same command again; if it stays, collect the journal and the logs",
        )
