"""`keystone-install trust rotate`: observe, refuse, show the stages, ask once, apply them.

Runs on any Primer. All Primers must answer: one that is away would not know the new CA when it
comes back. An interrupted rotation is finished by the same command.
"""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.cluster import etcd, kubeadm, lock, pods
from keystone.cluster.facts import observe_etcd
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.install import (
    approval,
    engine,
    main,
    preflight,
    reach,
    renewal,
    rotation,
    rotation_actions,
    standing,
)
from keystone.install.actions import INSTALLER
from keystone.install.rotation import State
from keystone.install.rotation_actions import World
from keystone.install.state import placed
from keystone.pki import brought, certificates, host_files, root_key, rotate, tree
from keystone.pki.rotation import DROPPED, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.run import Host
    from keystone.site.model import Site


@dataclass(frozen=True)
class Options:
    """The command line. root_key: file of the offline root's key, or for a new one.

    brought: folder with the new CA of the operator. once: only the next
    stage. now: do not wait until tokens of the old key have ended.
    """

    name: str
    root_key: str
    passphrase_file: str = ""
    plan_only: bool = False
    yes: bool = False
    once: bool = False
    leave_behind: bool = False
    now: bool = False
    as_json: bool = False
    brought: str = ""


def run(site: Site, options: Options) -> None:
    """Rotate, or finish a rotation. Raises a KeystoneError for each expected failure."""
    given = _brought(site, options)
    hosts = reach.hosts_of(site)
    world = _world(site, hosts, options)
    world.brought = given
    with log.step(f"observe {', '.join(hosts)}"):
        world.observe()
    _require(world)
    phases = rotation.phases(world.state)
    made = engine.make_plan(phases, world.state)
    if options.once:
        phases, made = _next(phases, made)
    _show(made, options)
    if options.plan_only or made.empty:
        return
    if not options.yes:
        approval.confirm(f"the rotation of {options.name} needs approval", "Apply these stages?")
    _apply(world, phases, site)
    log.info(f"Done: {options.name}", event="rotated")
    if reminder := root_key.reminder(site, tree.DIRECTORY):
        log.warn(reminder, event="root-key")


def _brought(site: Site, options: Options) -> brought.Given | None:
    """Return the CA that the operator brings. Raises as `brought.read`, and RefusedError."""
    if not options.brought:
        return None
    now = dt.datetime.now(dt.UTC)
    lifetime = site.trust.certificate_lifetime
    given = brought.read(Path(options.brought), lifetime, now, (options.name,))
    brought.require_signed_by_root(tree.DIRECTORY, given)
    if tree.observe(site, tree.DIRECTORY).rotations.stage(options.name) in ("", DROPPED):
        brought.require_new(tree.DIRECTORY, given)
    return given


def _world(site: Site, hosts: Mapping[str, Host], options: Options) -> World:
    file = Path(options.root_key or site.trust.root_key_file)
    trust = replace(site.trust, root_key_file=str(file))
    if options.passphrase_file:
        trust = replace(trust, passphrase_file=options.passphrase_file)

    def root() -> certificates.Pair:
        return rotate.opened(site, tree.DIRECTORY, file, root_key.passphrase_of(trust))

    def new_root() -> None:
        start = dt.datetime.now(dt.UTC).replace(microsecond=0) - certificates.BACKDATE
        words = root_key.passphrase_of(trust)
        rotate.sign_again(site, tree.DIRECTORY, file, words, start)

    first = tree.observe(site, tree.DIRECTORY)
    state = State(site, options.name, {}, first, first.rotations.number)

    def given() -> str:
        return root_key.certificate_in(file) if options.name == ROOT else ""

    world = World(
        hosts, root, new_root, given, lambda: _observe(world), state, options.leave_behind,
        options.now,
    )  # fmt: skip
    return world


def _observe(world: World) -> State:
    """Look at all Primers, and at the nodes and workloads that this rotation concerns."""
    hosts, last = world.hosts, world.state
    facts = observe.probe_all(hosts)
    site, name = last.site, last.name
    trust = tree.observe(site, tree.DIRECTORY, placed=placed(facts))
    state = replace(last, facts=facts, trust=trust, given=world.given())
    if name != ROOT:
        with ThreadPoolExecutor(len(hosts)) as pool:
            late = pool.map(lambda host: _behind(host, name), hosts.values())
            behind = dict(zip(hosts, late, strict=True))
        members = observe_etcd(hosts[site.primers[0].name]).members
        leader = next((one.name for one in members if one.leads), "")
        state = replace(state, behind=behind, leader=leader)
    if not world.leave_behind and name in rotation.FOLLOWED:
        state = replace(state, nodes=rotation_actions.nodes_behind(world.api))
    if not world.leave_behind and name == rotation.IN_PODS:
        authority = host_files.content(tree.DIRECTORY, f"{host_files.TRUSTED}kubernetes")
        state = replace(state, workloads=pods.unrolled(world.api, pods.digest(authority)))
    world.state = state
    return state


def _behind(host: Host, name: str) -> tuple[str, ...]:
    answer = host.run([INSTALLER, "readers", "behind", name], timeout=300).stdout
    try:
        return tuple(json.loads(answer))
    except (ValueError, TypeError) as error:
        raise HostError(
            f"{host.name}: an answer that is no list: {answer[:200]!r}",
            hint="run the installation first: each Primer gets this version of keystone-install",
        ) from error


def _require(world: World) -> None:
    """Refuse what could lock somebody out. Raises RefusedError with all findings."""
    state, facts = world.state, world.state.facts
    trust = state.trust
    if not trust.complete:
        raise RefusedError(
            f"{tree.DIRECTORY}: the trust tree is incomplete", hint="run this on another Primer"
        )
    here = renewal.this_primer(state.site).name
    found = (*standing.tree(trust, facts, here), *preflight.clocks(state.site, facts))
    lines = [one.line() for one in found]
    others = [name for name in trust.rotations.unfinished if name != state.name]
    lines += [f"{name} is being rotated: finish that first" for name in others]
    if lines:
        raise RefusedError("\n".join(lines), hint="nothing was changed")
    if state.name != ROOT:
        _await_health(world)


def _await_health(world: World) -> None:
    """Wait for what an interrupted run restarted. Raises RefusedError if it stays away."""
    why = rotation_actions.unhealthy(world)
    if not why:
        return
    seconds = kubeadm.patience_of(world.state.site).wait
    try:
        with log.step(f"wait until all Primers serve: {why}"):
            rotation_actions.until(lambda: rotation_actions.unhealthy(world), seconds, "")
    except HostError as error:
        raise RefusedError(error.message, hint="nothing was changed; repair it first") from error


def _next(
    phases: tuple[engine.Phase[World, State], ...], made: engine.Plan[World]
) -> tuple[tuple[engine.Phase[World, State], ...], engine.Plan[World]]:
    """Return only the first phase that has something to do."""
    for phase, planned in zip(phases, made.phases, strict=True):
        if planned.actions:
            return (phase,), engine.Plan((planned,))
    return phases[:1], engine.Plan(made.phases[:1])


def _show(made: engine.Plan[World], options: Options) -> None:
    rows = [(p.phase, action.describe()) for p in made.phases for action in p.actions]
    if options.as_json:
        log.out_json({
            "rotation": options.name,
            "empty": made.empty,
            "actions": [{"stage": stage, "action": what} for stage, what in rows],
        })  # fmt: skip
    elif rows:
        log.table(["stage", "action"], rows, title=f"Rotation of {options.name}")
    if made.empty:
        log.info("Nothing to do", event="converged")


def _apply(world: World, phases: tuple[engine.Phase[World, State], ...], site: Site) -> None:
    """Apply stage after stage, each under the operator's lock and that of the timer's renewal.

    Once for each stage: the holder of the lock reads its CA when it starts.
    """
    endpoints = ",".join(etcd.client_url(node) for node in site.primers)
    with main.alone():
        for phase in phases:
            with (
                lock.held(main.OPERATOR, wait=main.PATIENCE, endpoints=endpoints),
                lock.held(renewal.LOCK, wait=renewal.WAIT_SECONDS, endpoints=endpoints),
            ):
                engine.apply(
                    (phase,), world, world.observe, first=world.observe(), approved=frozenset(),
                    journal=engine.Journal(main.JOURNAL),
                )  # fmt: skip
