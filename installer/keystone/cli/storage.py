"""keystone-install storage: the disks of the host it runs on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.errors import ConfigurationError, HostError, RefusedError
from keystone.hosts import observe as hosts
from keystone.lockfile import only_one
from keystone.run import CommandError
from keystone.storage import plan as storage
from keystone.storage import zfs
from keystone.storage.spec import parse_spec

if TYPE_CHECKING:
    from typing import TextIO

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


spec_option = click.option(
    "--spec", "spec_file", required=True, type=click.File("r"),
    help="JSON: pool, layout, ashift, serials, datasets; - for standard input.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@click.group()
def group() -> None:
    """Look at this host's disks, plan its pool and datasets, make them."""


@group.command()
@json_option
def probe(*, as_json: bool) -> None:
    """Show the disks of this host and what is on them."""
    seen = observe()
    if as_json:
        log.out_json(
            {
                "disks": [asdict(disk) for disk in seen.disks],
                "pools": [{**vars(pool), "properties": dict(pool.properties),
                           "vdevs": [asdict(vdev) for vdev in pool.vdevs]} for pool in seen.pools],
                "datasets": [{**vars(d), "properties": dict(d.properties)} for d in seen.datasets],
            }
        )  # fmt: skip
        return
    log.table(
        ("disk", "serial", "model", "size", "state"),
        [
            (d.path, d.serial, d.model, log.size(d.size), storage.found_on(d) or "blank")
            for d in seen.disks
        ],
    )


@group.command()
@spec_option
@json_option
def plan(spec_file: TextIO, *, as_json: bool) -> None:
    """Show what `apply` would do; changes nothing."""
    spec = _read(spec_file)
    seen = observe()
    actions = storage.plan(spec, seen, zfs.read_intent())
    _answer(spec, seen, actions, changed=bool(actions), as_json=as_json)


@group.command()
@spec_option
@json_option
@click.option("--approve", default="", help="The plan id that `plan` showed.")
@click.option("--approve-blank", is_flag=True, help="A pool may be made on provably blank disks.")
def apply(spec_file: TextIO, approve: str, *, as_json: bool, approve_blank: bool) -> None:
    """Make what is missing; a second run makes nothing."""
    spec = _read(spec_file)
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
    _answer(spec, first, done, changed=bool(done), as_json=as_json)


def _apply(action: StorageAction) -> None:
    try:
        zfs.apply(action)
    except CommandError as error:
        raise HostError(
            f"{action.describe()}: {error.message}",
            hint="look: zpool import; zpool status. Then run the same command again",
        ) from error


def _read(spec_file: TextIO) -> Spec:
    try:
        return parse_spec(json.load(spec_file))
    except json.JSONDecodeError as error:
        where = "standard input" if spec_file is sys.stdin else spec_file.name
        raise ConfigurationError(f"storage spec: {where}: no JSON: {error}") from error


def _answer(
    spec: Spec, seen: Observed, actions: tuple[StorageAction, ...], *, changed: bool, as_json: bool
) -> None:
    plan_id = storage.plan_id(spec, seen, actions)
    if as_json:
        log.out_json(
            {"changed": changed, "plan": plan_id, "actions": storage.actions_to_json(actions)}
        )
        return
    for action in actions:
        log.out(action.describe())
    log.out(f"plan {plan_id}: {len(actions)} action(s)" if actions else "nothing to do")
