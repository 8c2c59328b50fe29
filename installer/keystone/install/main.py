"""The main job: `keystone-install --bundle offline.tar --site site.yaml`.

Verify the bundle before anything else; look at every host; refuse what is not fit; show the plan;
ask once; apply phase by phase. Nothing is changed on any host before the plan was approved.
"""

from __future__ import annotations

import fcntl
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.bundle.delta.over_store import over_store
from keystone.bundle.model import STORE
from keystone.bundle.read.bundle import Bundle, open_verified
from keystone.bundle.trust.question import confirm_root
from keystone.cluster.facts import observe_cluster, observe_etcd
from keystone.errors import DamagedBundleError, RefusedError, UsageError
from keystone.files import again
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts
from keystone.install import engine, preflight, reach, standing
from keystone.install.actions import IngestStore, World
from keystone.install.phases import PHASES
from keystone.install.reach import hosts_of
from keystone.install.state import State
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.site import model as site
from keystone.store.held import open_held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.install.findings import Finding

JOURNAL = Path("/var/lib/keystone/journal.jsonl")
LOCK = Path("/run/keystone-install.lock")


@dataclass(frozen=True)
class Options:
    """The command line of the main job."""

    bundle: Path
    site: Path
    plan_only: bool = False
    yes: bool = False
    fingerprint: str | None = None
    as_json: bool = False


def main(options: Options) -> None:
    """Do the main job. Raises a KeystoneError with its exit code for everything expected."""
    if os.geteuid() != 0:
        raise UsageError("keystone-install must run as root on the first Primer")
    document = site.read(options.site)
    wanted = site.from_document(document)
    with _alone():
        opened = _open(options)
        reached = _reached(wanted, options)
        hosts = reached.hosts
        world = World(
            bundle=opened,
            hosts=hosts,
            passphrase=lambda: root_key.passphrase_of(wanted.trust),
            observe=lambda: _observe(world, wanted),
        )
        with log.step(f"look at {', '.join(hosts)}"):
            state = world.observe()
        findings = _preflight(state, as_json=options.as_json)
        made = engine.make_plan(PHASES, state)
        world.bundle = opened = _to_be_sent(made, options, opened)
        _show(made, reached.unknown, findings, as_json=options.as_json)
        if made.empty:
            log.info("Nothing to do: the site is as it should be.", event="converged")
        if not options.plan_only:
            _approve(made, reached, options)
            site.keep(document)
        if made.empty or options.plan_only:
            _remind(wanted)
            return
        opened.pin()
        outcomes = engine.apply(
            PHASES,
            world,
            world.observe,
            first=state,
            approved=made.destructive,
            journal=engine.Journal(JOURNAL),
        )
    _report(outcomes, wanted, as_json=options.as_json)


def _open(options: Options) -> Bundle:
    """The bundle, verified: its signatures in any case, its content unless the store has it."""
    with log.step(f"verify {options.bundle}"):
        held = open_held(
            options.bundle, Path(STORE), fingerprint=options.fingerprint, confirm=confirm_root
        )
        if held is None:
            return _read_whole(options)
        log.info(f"  signatures hold; content not read again: {STORE} has all of it", event="held")
        return held


def _read_whole(options: Options) -> Bundle:
    opened = open_verified(
        options.bundle, fingerprint=options.fingerprint, confirm=confirm_root, deltas=True
    )
    return over_store(opened, Path(STORE))


def _to_be_sent(made: engine.Plan[World], options: Options, opened: Bundle) -> Bundle:
    """The same bundle, read whole when the plan sends the file to a Primer that lacks it.

    That Primer hashes what comes; but nothing is to be changed, or approved, for a damaged file.
    """
    sends = any(isinstance(a, IngestStore) for planned in made.phases for a in planned.actions)
    if opened.was_read or not sends:
        return opened
    with log.step(f"verify the content of {options.bundle}, which not every Primer has"):
        again = _read_whole(options)
    if again.digest != opened.digest:
        raise DamagedBundleError(
            f"{options.bundle}: changed since its signatures were checked",
            hint="look at the medium; do not swap it during an installation",
            code="KSB-30",
        )
    return again


def _reached(wanted: site.Site, options: Options) -> reach.Reach:
    """The Primers. With --yes nobody confirms a host key that is not known: it is refused."""
    reached = reach.look(wanted)
    if reached.unknown and options.yes and not options.plan_only:
        raise reach.refusal(reached.unknown)
    return reached


def _observe(world: World, wanted: site.Site) -> State:
    """One look at everything: one round trip a host; quorum and cluster are asked from here."""
    seen: Mapping[str, HostFacts] = observe.probe_all(world.hosts)
    first = world.hosts[wanted.primers[0].name]
    planes = [n.name for n in wanted.control_planes if "control_plane" in seen[n.name].roles]
    with ThreadPoolExecutor(2) as pool:
        etcd = pool.submit(observe_etcd, first) if "etcd" in seen[first.name].roles else None
        cluster = pool.submit(observe_cluster, world.hosts[planes[0]]) if planes else None
        trust = pki.observe(wanted, pki.DIRECTORY)
    state = State(
        site=wanted,
        manifest=world.bundle.manifest,
        bundle_digest=world.bundle.digest,
        installer_digest=str(world.bundle.manifest.of_kind("installer")[0].digest),
        facts=seen,
        trust=trust,
        etcd=etcd.result() if etcd else None,
        cluster=cluster.result() if cluster else None,
    )
    world.state = state
    return state


def _preflight(state: State, *, as_json: bool) -> tuple[Finding, ...]:
    """What deserves a look; raises for what stops the run."""
    findings = (
        *preflight.check(state.site, state.facts, state.manifest),
        *standing.authorities(state.trust, state.facts),
        *standing.lives(state.trust, state.site.primers[0].name),
        *standing.secrets(state.trust, state.facts, state.site.primers[0].name),
        *standing.names(state.site, state.cluster, state.facts),
        *standing.versions(state.manifest, state.facts),
    )
    if not as_json:  # else they are part of the plan's object, and standard output is that alone
        preflight.render(findings)
    preflight.enforce(findings)
    return findings


def _show(
    made: engine.Plan[World],
    unknown: tuple[reach.Unknown, ...],
    findings: tuple[Finding, ...],
    *,
    as_json: bool,
) -> None:
    rows = [
        (planned.phase, action.describe(), "destroys data" if action.destructive else "")
        for planned in made.phases
        for action in planned.actions
    ]
    if as_json:
        log.out_json({
            "id": made.id,
            "empty": made.empty,
            "findings": findings,
            "hostKeys": [{"host": u.name, "seen": u.fingerprint, "key": u.key} for u in unknown],
            "actions": [{"phase": p, "action": a, "destructive": bool(d)} for p, a, d in rows],
        })  # fmt: skip
        return
    if rows:
        log.table(["phase", "action", ""], rows, title=f"Plan {made.id}")
    if unknown:
        keys = [(one.name, one.address, one.fingerprint) for one in unknown]
        log.table(["host", "address", "fingerprint"], keys, title="SSH host keys to compare")
        log.info(f"Nobody vouches for these yet. Compare with {reach.CONSOLE}.")


def _approve(made: engine.Plan[World], reached: reach.Reach, options: Options) -> None:
    if options.yes:
        reached.keep()
    if options.yes or (made.empty and not reached.unknown):
        return
    if reached.unknown and not sys.stdin.isatty():
        raise reach.refusal(reached.unknown)
    if not sys.stdin.isatty():
        raise RefusedError(
            f"plan {made.id} was not approved and there is no terminal to ask on",
            hint="look at it with --plan, then add --yes",
        )
    also = "Do these hosts' consoles show these keys, and go on" if reached.unknown else "Go on"
    if not click.confirm(f"{also} with this plan?"):
        raise RefusedError(f"plan {made.id} was not approved", hint="nothing was changed")
    reached.keep()


@contextmanager
def _alone() -> Iterator[None]:
    """Two runs at once on one Primer would undo each other; the kernel drops the lock with us."""
    with os.fdopen(again(LOCK, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RefusedError(
                f"another keystone-install is at work on this machine: process {file.read()}",
                hint="wait for it to end; its lock goes with it",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _remind(wanted: site.Site) -> None:
    if said := root_key.reminder(wanted, pki.DIRECTORY):
        log.warn(said, event="root-key")


def _report(outcomes: tuple[engine.Outcome, ...], wanted: site.Site, *, as_json: bool) -> None:
    rows = [
        (outcome.phase, outcome.applied or "none", log.duration(outcome.seconds))
        for outcome in outcomes
    ]
    if not as_json:
        log.table(["phase", "changes", "time"], rows, title=f"Site {wanted.name}")
    where = wanted.control_planes[0]
    on = "" if where == wanted.primers[0] else f", on {where.name}"
    log.info(f"Done. Add a worker with: keystone-install token create --role worker{on}")
    _remind(wanted)


__all__ = ["Options", "hosts_of", "main"]
