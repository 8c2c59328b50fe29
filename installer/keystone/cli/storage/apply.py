"""`keystone-install storage apply`: the pool and its datasets are made."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import click

from keystone.cli.storage.observed import observe
from keystone.cli.storage.options import json_option, spec_option
from keystone.cli.storage.spec import answer, read
from keystone.errors import HostError, RefusedError
from keystone.lockfile import only_one
from keystone.run import CommandError
from keystone.storage import plan as storage
from keystone.storage import zfs
from keystone.storage.plan import StorageAction
from keystone.storage.spec import Spec

LOCK = Path("/run/keystone-storage.lock")
ROUNDS = 3
"""Import, then the datasets that it showed to be missing, then nothing."""


@click.command("apply")
@spec_option
@json_option
@click.option("--approve", default="", help="The plan id that `plan` showed.")
@click.option("--approve-blank", is_flag=True, help="A pool may be made on provably blank disks.")
def verb(spec_file: TextIO, approve: str, *, as_json: bool, approve_blank: bool) -> None:
    """Make what is missing; a second run makes nothing."""
    spec = read(spec_file)
    with only_one(LOCK, "the disks of this host"):
        _converge(spec, None if approve_blank else approve, as_json=as_json)


def _converge(spec: Spec, approved: str | None, *, as_json: bool) -> None:
    """Look, then act: what was seen before the lock was held may be another's half-made pool.

    approved: a plan's id, or None: whatever is planned, as long as the disks are provably blank.
    """
    seen = first = observe()
    actions = done = storage.plan(spec, seen, zfs.read_intent())
    wanted = storage.plan_id(spec, seen, actions)
    if any(action.destructive for action in actions) and approved not in {None, wanted}:
        raise RefusedError(
            f"plan {wanted} writes to disks and is not approved: "
            + "; ".join(action.describe() for action in actions if action.destructive),
            hint=f"look at it with `storage plan`, then: storage apply --approve {wanted}",
        )
    for _ in range(ROUNDS):
        if any(pool.name == spec.pool for pool in seen.pools):
            # Before the first dataset: a pool with data in it is never made again.
            zfs.forget_intent()
        for action in actions:
            _apply(action)
        seen = observe()
        actions = storage.plan(spec, seen, zfs.read_intent())
        if not actions:
            break
        done = (*done, *actions)
    if actions:
        raise HostError(
            "storage does not converge; still missing: "
            + "; ".join(action.describe() for action in actions),
            hint="look: zpool status; zfs list",
        )
    answer(spec, first, done, changed=bool(done), as_json=as_json)


def _apply(action: StorageAction) -> None:
    try:
        zfs.apply(action)
    except CommandError as error:
        raise HostError(
            f"{action.describe()}: {error.message}",
            hint="look: zpool import; zpool status. Then run the same command again",
        ) from error
