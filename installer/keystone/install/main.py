"""The main job: `keystone-install --bundle offline.tar --site site.yaml`.

Verify the bundle before anything else; observe every host; refuse unfit hosts; show the plan; ask
once; apply phase by phase. No host is changed before the plan was approved.
"""

from __future__ import annotations

import datetime as dt
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
from keystone.backup.opened import observe as observe_opened
from keystone.bundle.delta.over_store import over_store
from keystone.bundle.model import STORE
from keystone.bundle.read.bundle import Bundle, open_verified
from keystone.bundle.trust.question import confirm_root
from keystone.cluster import etcdctl, lock
from keystone.cluster.facts import observe_cluster, observe_etcd
from keystone.errors import DamagedBundleError, RefusedError, UsageError
from keystone.files import open_own
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts
from keystone.install import approval, engine, identity, preflight, reach, standing
from keystone.install.actions import IngestStore, World
from keystone.install.phases import PHASES
from keystone.install.reach import hosts_of
from keystone.install.state import State, placed
from keystone.pki import root_key
from keystone.pki import tree as pki
from keystone.run import Host
from keystone.site import model as site
from keystone.store.held import open_held, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.install.findings import Finding

JOURNAL = Path("/var/lib/keystone/journal.jsonl")
LOCK = Path("/run/keystone-install.lock")
OPERATOR = "operator"
"""The lock in etcd that one installer of the site holds while it applies a plan."""
PATIENCE = lock.LEASE_SECONDS + 15
"""Seconds to wait for it: the lock of a run that was killed has ended by then."""


@dataclass(frozen=True)
class Options:
    """The command line of the main job. bundle: None for the one in this machine's store.

    fingerprint: of the bundle's root, to pin. approved: id of a plan that was shown before.
    replacing: the Primers whose machines were replaced.
    """

    bundle: Path | None
    site: Path
    plan_only: bool = False
    yes: bool = False
    fingerprint: str | None = None
    as_json: bool = False
    approved: str = ""
    replacing: tuple[str, ...] = ()


def main(options: Options) -> None:
    """Run the main job. Raises a KeystoneError with its exit code for every expected failure."""
    if os.geteuid() != 0:
        raise UsageError("keystone-install must run as root on a Primer")
    document = site.read(options.site)
    wanted = site.from_document(document)
    with alone():
        opened = _open(options)
        reached = _reached(wanted, options)
        text = site.installed_text(document)
        world = World(
            bundle=opened,
            hosts=reached.hosts,
            passphrase=lambda: root_key.passphrase_of(wanted.trust),
            observe=lambda: _observe(world, wanted, text, options.replacing),
        )
        with log.step(f"observe {', '.join(world.hosts)}"):
            state = world.observe()
        world.leaving = reach.departed(wanted, identity.leaving(wanted, state.known))
        findings = _preflight(state, as_json=options.as_json)
        made = engine.make_plan(PHASES, state)
        world.bundle = opened = _to_be_sent(made, options, opened)
        _show(made, reached.unknown, findings, as_json=options.as_json)
        if made.empty:
            log.info("Nothing to do: the site is in its desired state.", event="converged")
        if not options.plan_only:
            _approve(made, reached, options)
        if made.empty or options.plan_only:
            if made.empty and not options.plan_only:
                site.keep(document)
            _remind(wanted)
            return
        with _only_operator(world):
            site.keep(document)
            opened.pin()
            outcomes = _apply(world, made)
    _report(outcomes, wanted, as_json=options.as_json)


def _apply(world: World, made: engine.Plan[World]) -> tuple[engine.Outcome, ...]:
    return engine.apply(
        PHASES,
        world,
        world.observe,
        first=world.seen,
        approved=made.destructive,
        journal=engine.Journal(JOURNAL),
    )


@contextmanager
def _only_operator(world: World) -> Iterator[None]:
    """Hold the site's lock if it has a quorum, and observe again what another run may have done.

    Without a quorum there is only the lock of this machine. Raises RefusedError that says who else
    changes the site, since when, and on which host.
    """
    endpoints = ",".join(url for one in world.seen.members for url in one.clients)
    if not any(one.healthy for one in world.seen.members):
        yield
        return
    if who := lock.holder(OPERATOR, endpoints=endpoints):
        log.info(f"waiting for keystone-install on {who}")
    with lock.held(OPERATOR, wait=PATIENCE, endpoints=endpoints) as held:
        look = world.observe

        def observe() -> State:
            held.require()
            return look()

        world.observe = observe
        world.observe()
        yield


def _open(options: Options) -> Bundle:
    """Verify and open the bundle: always its signatures; its content unless the store has it."""
    if options.bundle is None:
        with log.step(f"verify the bundle in {STORE}"):
            return open_stored(Path(STORE))
    with log.step(f"verify {options.bundle}"):
        held = open_held(
            options.bundle, Path(STORE), fingerprint=options.fingerprint, confirm=confirm_root
        )
        if held is None:
            return _read_whole(options.bundle, options)
        log.info(f"  signatures valid; content not read again: {STORE} has all of it", event="held")
        return held


def _read_whole(file: Path, options: Options) -> Bundle:
    opened = open_verified(file, fingerprint=options.fingerprint, confirm=confirm_root, deltas=True)
    return over_store(opened, Path(STORE))


def _to_be_sent(made: engine.Plan[World], options: Options, opened: Bundle) -> Bundle:
    """Return the same bundle; verify its content if the plan sends the file to a Primer.

    That Primer hashes it too; but a damaged file must be found before anything is approved. Blobs
    of the store were hashed before they had a name.
    """
    sends = any(isinstance(a, IngestStore) for planned in made.phases for a in planned.actions)
    if opened.was_read or not sends or options.bundle is None:
        return opened
    with log.step(f"verify the content of {options.bundle}: not every Primer has it"):
        whole = _read_whole(options.bundle, options)
    if whole.digest != opened.digest:
        raise DamagedBundleError(
            f"{options.bundle}: changed since its signatures were checked",
            hint="check the medium; do not swap it during an installation",
            code="KSB-30",
        )
    return whole


def _reached(wanted: site.Site, options: Options) -> reach.Reach:
    """Reach the Primers. Refuse unknown host keys with --yes: no person confirms them then."""
    if options.replacing:
        names = [node.name for node in wanted.primers]
        if unknown := [name for name in options.replacing if name not in names]:
            raise UsageError(
                f"{', '.join(unknown)}: the site file names no such Primer",
                hint=f"name one of: {', '.join(names)}",
            )
    _require_same_site(wanted)
    reached = reach.find(wanted, replacing=options.replacing)
    if reached.unknown and options.yes and not options.plan_only:
        raise reach.refusal(reached.unknown)
    return reached


def _require_same_site(wanted: site.Site) -> None:
    """Refuse a site file that changes what an existing site cannot, before any host is asked.

    Such a file may name hosts that do not exist.
    """
    if (etcdctl.PKI / "client.crt").exists():
        here = Host("this machine", "127.0.0.1", local=True)
        preflight.enforce(tuple(identity.fixed(wanted, observe_etcd(here).kept)))


def _observe(world: World, wanted: site.Site, document: str, replacing: tuple[str, ...]) -> State:
    """Observe hosts (one round trip each), etcd, cluster and trust tree; keep it in world.state."""
    seen: Mapping[str, HostFacts] = observe.probe_all(world.hosts)
    members = [world.hosts[n.name] for n in wanted.primers if "etcd" in seen[n.name].roles]
    here = next(name for name, host in world.hosts.items() if host.local)
    planes = [
        world.hosts[n.name] for n in wanted.control_planes if "control_plane" in seen[n.name].roles
    ]
    planes.sort(key=lambda host: not host.local)
    with ThreadPoolExecutor(2) as pool:
        etcd = pool.submit(
            reach.first_answer, members, observe_etcd, lambda facts: bool(facts.members)
        )
        cluster = pool.submit(reach.first_answer, planes, observe_cluster, bool)
        trust = pki.observe(wanted, pki.DIRECTORY, placed=placed(seen))
    state = State(
        site=wanted,
        manifest=world.bundle.manifest,
        bundle_digest=world.bundle.digest,
        installer_digest=str(world.bundle.manifest.of_kind("installer")[0].digest),
        facts=seen,
        trust=trust,
        etcd=etcd.result(),
        cluster=cluster.result(),
        document=document,
        here=here,
        replacing=replacing,
        opened=observe_opened(),
    )
    world.state = state
    return state


def _preflight(state: State, *, as_json: bool) -> tuple[Finding, ...]:
    """Return the warnings; raise RefusedError or PreflightError for what stops the run."""
    now = dt.datetime.now(dt.UTC)
    findings = (
        *preflight.check(state.site, state.facts, state.manifest),
        *standing.tree(state.trust, state.facts, state.here),
        *standing.secrets(state.trust, state.facts, state.here),
        *(
            ()
            if state.opened
            else standing.names(state.site, state.cluster, state.facts, state.replacing)
        ),
        *(() if state.opened else identity.findings(state)),
        *standing.versions(state.manifest, state.facts),
        *standing.certificates(state.facts, now),
        *standing.maintenance(state.facts, now),
    )
    if not as_json:  # the JSON of the plan holds them, and standard output is that object only
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
        log.info(f"These keys are not known yet. Compare them with {reach.CONSOLE}.")


def _approve(made: engine.Plan[World], reached: reach.Reach, options: Options) -> None:
    if options.approved and reached.unknown and not options.replacing:
        raise reach.refusal(reached.unknown)
    if options.approved:
        approval.require(made, options.approved)
    if made.by_id and options.yes and not options.approved:
        raise RefusedError(
            f"plan {made.id} takes machines out of the site, which --yes does not approve",
            hint=f"read it with --plan, then run again with --approve {made.id}",
        )
    if options.yes or options.approved:
        reached.keep()
    if options.yes or options.approved or (made.empty and not reached.unknown):
        return
    if reached.unknown and not sys.stdin.isatty():
        raise reach.refusal(reached.unknown)
    if not sys.stdin.isatty():
        raise RefusedError(
            f"plan {made.id} needs approval, and there is no terminal to ask on",
            hint="show it with --plan, then run again with "
            + (f"--approve {made.id}" if made.by_id else "--yes"),
        )
    question = (
        "Do the hosts' consoles show these keys? If so, apply this plan?"
        if reached.unknown
        else "Apply this plan?"
    )
    if not click.confirm(question) or (made.by_id and not _typed(made)):
        raise RefusedError(f"plan {made.id} was not approved", hint="nothing was changed")
    reached.keep()


def _typed(made: engine.Plan[World]) -> bool:
    """Ask for the plan's id: it takes machines out of the site."""
    asked = f"It takes machines out of the site. Type its id ({made.id}) to approve that"
    return str(click.prompt(asked, default="", show_default=False)).strip() == made.id


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of this machine: two runs at once would undo each other's changes.

    The kernel releases the lock when this process ends. Raises RefusedError if another run has it.
    """
    with os.fdopen(open_own(LOCK, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RefusedError(
                f"another keystone-install is running on this machine: process {file.read()}",
                hint="wait until it ends; this releases its lock",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _remind(wanted: site.Site) -> None:
    if reminder := root_key.reminder(wanted, pki.DIRECTORY):
        log.warn(reminder, event="root-key")


def _report(outcomes: tuple[engine.Outcome, ...], wanted: site.Site, *, as_json: bool) -> None:
    rows = [
        (outcome.phase, outcome.applied or "none", log.duration(outcome.seconds))
        for outcome in outcomes
    ]
    if not as_json:
        log.table(["phase", "changes", "time"], rows, title=f"Site {wanted.name}")
    names = ", ".join(node.name for node in wanted.control_planes)
    log.info(f"Done. Add a worker with, on {names}: keystone-install token create --role worker")
    _remind(wanted)


__all__ = ["Options", "alone", "hosts_of", "main"]
