"""The engine: observe, plan, show or apply, observe again, and require an empty plan.

The engine knows nothing of Kubernetes or disks. A phase is a pure function from the wanted and
the observed state to actions; only actions change a host. To resume, run again: the engine
decides from the hosts, never from the journal, which is for people.
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
from keystone.files import open_own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

World = TypeVar("World")
"""What actions use: connections, the open bundle, directories."""
State = TypeVar("State")
"""The input of phases: site, manifest and facts, all frozen."""


class Action(ABC, Generic[World]):
    """One change. Frozen dataclasses; equal fields mean the same action."""

    destructive: bool = False
    """True if the action may destroy data: then only an approved plan that names it allows it."""
    by_id: bool = False
    """True if only the plan's id approves it, or a person who types that: never --yes."""

    @abstractmethod
    def describe(self) -> str:
        """Say in one line what the action does, to which host."""

    def where(self) -> tuple[str, ...]:
        """Return the hosts that the action names; empty if it names none."""
        return tuple(getattr(self, "hosts", ()))

    @abstractmethod
    def apply(self, world: World) -> None:
        """Apply the change. Raises KeystoneError. Must be safe to repeat after any interruption."""


@dataclass(frozen=True)
class Phase(Generic[World, State]):
    """A step of an installation. plan: pure; from the observed state to the actions it needs."""

    name: str
    sentence: str
    plan: Callable[[State], Sequence[Action[World]]]


@dataclass(frozen=True)
class Planned(Generic[World]):
    """The actions that one phase would apply."""

    phase: str
    actions: tuple[Action[World], ...]


@dataclass(frozen=True)
class Plan(Generic[World]):
    """The actions of the whole installation, as far as the first observation shows."""

    phases: tuple[Planned[World], ...]

    @property
    def empty(self) -> bool:
        """True if there is nothing to do: the site is in its desired state."""
        return not any(planned.actions for planned in self.phases)

    @property
    def destructive(self) -> frozenset[str]:
        """Descriptions of the destructive actions; they name hosts and disk serials."""
        return frozenset(
            action.describe()
            for planned in self.phases
            for action in planned.actions
            if action.destructive
        )

    @property
    def by_id(self) -> bool:
        """True if it has an action that only the plan's id approves."""
        return any(action.by_id for planned in self.phases for action in planned.actions)

    @property
    def id(self) -> str:
        """12 hex digits that identify exactly the destructive actions (SHA-256, shortened)."""
        return hashlib.sha256("\n".join(sorted(self.destructive)).encode()).hexdigest()[:12]


class Journal:
    """JSON lines with each action and its time, each synced; for people and support bundles."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **event: object) -> None:
        """Append one event with the time (seconds since the epoch)."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": time.time(), **event}) + "\n"
        handle = open_own(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def make_plan(phases: Sequence[Phase[World, State]], state: State) -> Plan[World]:
    """Plan every phase from one observation. Pure."""
    return Plan(tuple(Planned(phase.name, tuple(phase.plan(state))) for phase in phases))


@dataclass(frozen=True)
class Outcome:
    """The result of one phase: number of actions applied, seconds taken."""

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
    destructive actions that a person approved. Raises RefusedError for any other destructive
    action, and HostError if a phase still needs actions after it was applied.
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
            _require_empty_plan(phase, state)
        outcomes.append(Outcome(phase.name, len(actions), time.monotonic() - start))
    return tuple(outcomes)


def _apply_one(
    action: Action[World], phase: str, world: World, approved: frozenset[str], journal: Journal
) -> None:
    what = action.describe()
    if action.destructive and what not in approved:
        raise RefusedError(
            f"phase {phase}: {what}: not part of the approved plan",
            hint="show the new plan with --plan, then run again and approve it",
        )
    journal.write(phase=phase, action=what, event="start")
    log.event("action", what, phase=phase, hosts=action.where())
    try:
        action.apply(world)
    except KeystoneError as error:
        journal.write(phase=phase, action=what, event="failed", error=error.message)
        raise
    journal.write(phase=phase, action=what, event="done")


def _require_empty_plan(phase: Phase[World, State], state: State) -> None:
    left = [action.describe() for action in phase.plan(state)]
    if left:
        raise HostError(
            f"phase {phase.name}: was applied but still needs: " + "; ".join(left),
            hint="run the same command again; if this error remains, collect the journal and logs",
        )
