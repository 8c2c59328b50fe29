"""`keystone-install trust revoke`: let etcd refuse certificates from now on.

Runs on any Primer. A Primer that does not answer holds nothing up: the others refuse the
certificates at once, and the command ends with its name and exit code 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from keystone import log
from keystone.cluster import etcd, known, lock
from keystone.cluster.facts import observe_etcd
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.install import approval, engine, main, reach, renewal, rotation, standing
from keystone.install.rotation import REVOKED, State
from keystone.install.rotation_actions import World
from keystone.install.state import placed
from keystone.pki import host_files, revocation, tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.hosts.facts import HostFacts
    from keystone.pki.rotation import Revoked
    from keystone.site.model import Site


@dataclass(frozen=True)
class Options:
    """The command line. host, names: of a Primer and its leaves, () for all of them.

    Without host and certificate: only bring the lists to Primers that lack them.
    """

    host: str
    names: tuple[str, ...]
    certificate: Path | None = None
    plan_only: bool = False
    yes: bool = False
    as_json: bool = False


def run(site: Site, options: Options) -> None:
    """Revoke, and bring the lists to all Primers. Raises KeystoneError for expected failures."""
    hosts = reach.known(site)
    here = renewal.this_primer(site).name
    with log.step(f"observe {', '.join(hosts)}"):
        facts, _ = observe.probe_each(hosts)
        wanted = _wanted(site, options, facts, observe_etcd(hosts[here]).kept)
    silent = tuple(node.name for node in site.primers if node.name not in facts)
    first = tree.observe(site, tree.DIRECTORY, placed=placed(facts))
    state = State(site, REVOKED, facts, first, first.rotations.number, wanted=wanted)
    answering = {name: host for name, host in hosts.items() if name in facts}
    world = World(answering, _never, _never, str, lambda: _observe(world), state)
    _require(state, here)
    made = engine.make_plan(rotation.phases(world.state), world.state)
    _show(made, silent, options)
    if not options.plan_only and not made.empty:
        if not options.yes:
            approval.confirm("a revocation cannot be taken back", "Revoke them?")
        _apply(world, site)
    if silent and not options.plan_only:
        raise HostError(
            f"{', '.join(silent)}: not reached, and accepts the certificates until it is",
            hint="when it answers: keystone-install trust revoke, without a name, brings the lists "
            "there; if it is lost for good: keystone-install node replace, or remove it from the "
            "site file",
        )


def _never() -> NoReturn:
    raise AssertionError


def _wanted(
    site: Site, options: Options, facts: Mapping[str, HostFacts], kept: Mapping[str, str]
) -> tuple[Revoked, ...]:
    """Return the certificates that were asked for: in the file, or all that a Primer has."""
    if options.certificate:
        pem = options.certificate.read_bytes()
        return (revocation.of_file(pem, str(options.certificate), tree.DIRECTORY),)
    name = options.host
    if not name:
        return ()
    found = known.leaves(kept, name)
    node = next((node for node in site.primers if node.name == name), None)
    if node and name in facts:
        found |= revocation.noted(facts[name].certificates, host_files.leaf_places(node))
    if not found:
        raise RefusedError(
            f"{name}: etcd has no note of its certificates, and it does not answer",
            hint="if you have a certificate: --certificate FILE; else rotate the CAs: "
            "keystone-install trust rotate ca etcd-client, then etcd-peer",
        )
    return revocation.of_host(name, found, options.names or tuple(revocation.LEAVES))


def _observe(world: World) -> State:
    facts = observe.probe_all(world.hosts)
    trust = tree.observe(world.state.site, tree.DIRECTORY, placed=placed(facts))
    world.state = replace(world.state, facts=facts, trust=trust)
    return world.state


def _require(state: State, here: str) -> None:
    if lines := [one.line() for one in standing.tree(state.trust, state.facts, here)]:
        raise RefusedError("\n".join(lines), hint="nothing was changed")


def _show(made: engine.Plan[World], silent: tuple[str, ...], options: Options) -> None:
    rows = [action.describe() for planned in made.phases for action in planned.actions]
    if options.as_json:
        log.out_json({"empty": made.empty, "actions": rows, "silent": silent})
        return
    for row in rows:
        log.info(f"  {row}")
    if made.empty:
        log.info("Nothing to do: these are revoked on every Primer that answers", event="converged")
    for name in silent:
        log.warn(f"{name} does not answer, and accepts the certificates until it has the lists")


def _apply(world: World, site: Site) -> None:
    endpoints = ",".join(etcd.client_url(node) for node in site.primers)
    with (
        main.alone(),
        lock.held(main.OPERATOR, wait=main.PATIENCE, endpoints=endpoints),
        lock.held(renewal.LOCK, wait=renewal.WAIT_SECONDS, endpoints=endpoints),
    ):
        engine.apply(
            rotation.phases(world.state), world, world.observe, first=world.observe(),
            approved=frozenset(), journal=engine.Journal(main.JOURNAL),
        )  # fmt: skip
    log.info("Done: etcd refuses them at their next connection", event="revoked")
