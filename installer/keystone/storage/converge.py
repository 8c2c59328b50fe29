"""Create the pool and datasets of this host: observe, plan, apply, until the plan is empty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import HostError, RefusedError
from keystone.hosts import observe as hosts
from keystone.lockfile import only_one
from keystone.run import CommandError
from keystone.storage import plan as storage
from keystone.storage import zfs

if TYPE_CHECKING:
    from keystone.hosts.facts import DatasetFacts, DiskFacts, PoolFacts
    from keystone.storage.plan import StorageAction
    from keystone.storage.spec import Spec

LOCK = Path("/run/keystone-storage.lock")
ROUNDS = 3
"""Rounds at most: import the pool, create its missing datasets, find nothing to do."""


@dataclass(frozen=True)
class Observed:
    """The storage of this host."""

    disks: tuple[DiskFacts, ...]
    pools: tuple[PoolFacts, ...]
    datasets: tuple[DatasetFacts, ...]


def observe() -> Observed:
    """Observe this host. Raises HostError on failure: an unobserved disk is not blank."""
    try:
        return Observed(hosts.disks(), zfs.pools(), zfs.datasets())
    except CommandError as error:
        raise HostError(error.message, hint=error.hint) from error


def converge(spec: Spec, approved: str | None) -> tuple[Observed, tuple[StorageAction, ...]]:
    """Create the missing pool and datasets; return the first observation and the applied actions.

    A second run changes nothing. approved: id of the approved plan; None approves any plan (a new
    pool is planned on provably blank disks only). Raises RefusedError for a plan that writes to
    disks and is not approved, HostError when an action fails or the plan is not empty after the
    last round.
    """
    with only_one(LOCK, "the disks of this host"):
        # Observe only with the lock held: before, another process may be creating the pool.
        seen = first = observe()
        actions = done = storage.plan(spec, seen, zfs.read_intent())
        _require_approval(actions, storage.plan_id(spec, seen, actions), approved)
        for _ in range(ROUNDS):
            if any(pool.name == spec.pool for pool in seen.pools):
                # Before the first dataset exists: a pool with data is never created again.
                zfs.forget_intent()
            for action in actions:
                _apply(action)
            seen = observe()
            actions = storage.plan(spec, seen, zfs.read_intent())
            if not actions:
                return first, done
            done = (*done, *actions)
    raise HostError(
        f"storage is not converged after {ROUNDS} rounds; still to do: "
        + "; ".join(action.describe() for action in actions),
        hint="find the cause: zpool status; zfs list",
    )


def _require_approval(
    actions: tuple[StorageAction, ...], wanted: str, approved: str | None
) -> None:
    destructive = [action.describe() for action in actions if action.destructive]
    if destructive and approved not in {None, wanted}:
        raise RefusedError(
            f"plan {wanted} writes to disks and is not approved: " + "; ".join(destructive),
            hint=f"review it with storage plan, then run storage apply --approve {wanted}",
        )


def _apply(action: StorageAction) -> None:
    try:
        zfs.apply(action)
    except CommandError as error:
        raise HostError(
            f"{action.describe()}: {error.message}",
            hint="find the cause (zpool import; zpool status), then run the same command again",
        ) from error
