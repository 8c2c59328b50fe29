"""Disks to a pool to its datasets, on this host: look, plan, do, until nothing is left to do."""

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
"""Import, then the datasets that it showed to be missing, then nothing."""


@dataclass(frozen=True)
class Observed:
    """What storage looks at, of this host, now."""

    disks: tuple[DiskFacts, ...]
    pools: tuple[PoolFacts, ...]
    datasets: tuple[DatasetFacts, ...]


def observe() -> Observed:
    """Look at this host. Raises HostError: what cannot be looked at is not taken for blank."""
    try:
        return Observed(hosts.disks(), zfs.pools(), zfs.datasets())
    except CommandError as error:
        raise HostError(error.message, hint=error.hint) from error


def converge(spec: Spec, approved: str | None) -> tuple[Observed, tuple[StorageAction, ...]]:
    """Make what is missing; a second run makes nothing. What was seen first, and what was done.

    approved: a plan's id, or None: whatever is planned, as long as the disks are provably blank.
    Raises RefusedError for a plan that writes to disks and is not approved, HostError when a step
    fails or the host is not as it should be after the last round.
    """
    with only_one(LOCK, "the disks of this host"):
        # What was seen before the lock was held may be another's half-made pool.
        seen = first = observe()
        actions = done = storage.plan(spec, seen, zfs.read_intent())
        _require_approval(actions, storage.plan_id(spec, seen, actions), approved)
        for _ in range(ROUNDS):
            if any(pool.name == spec.pool for pool in seen.pools):
                # Before the first dataset: a pool with data in it is never made again.
                zfs.forget_intent()
            for action in actions:
                _apply(action)
            seen = observe()
            actions = storage.plan(spec, seen, zfs.read_intent())
            if not actions:
                return first, done
            done = (*done, *actions)
    raise HostError(
        "storage does not converge; still missing: "
        + "; ".join(action.describe() for action in actions),
        hint="look: zpool status; zfs list",
    )


def _require_approval(
    actions: tuple[StorageAction, ...], wanted: str, approved: str | None
) -> None:
    destructive = [action.describe() for action in actions if action.destructive]
    if destructive and approved not in {None, wanted}:
        raise RefusedError(
            f"plan {wanted} writes to disks and is not approved: " + "; ".join(destructive),
            hint=f"look at it with `storage plan`, then: storage apply --approve {wanted}",
        )


def _apply(action: StorageAction) -> None:
    try:
        zfs.apply(action)
    except CommandError as error:
        raise HostError(
            f"{action.describe()}: {error.message}",
            hint="look: zpool import; zpool status. Then run the same command again",
        ) from error
