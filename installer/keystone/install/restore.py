"""`keystone-install etcd restore`: restore a lost quorum from a surviving member or a snapshot.

Runs on any Primer: look at every Primer that answers, choose the newest data, show what is done and
what is lost, ask; then on all hosts: bring the snapshot, restore it beside the old data, swap,
start. After an interruption the same command finishes the same restore.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log
from keystone.cluster import recovery, snapshot_files
from keystone.cluster.facts import observe_etcd
from keystone.errors import HostError, RefusedError
from keystone.install import maintain, reach
from keystone.install.actions import INSTALLER, each

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keystone.cluster.recovery import MemberState, Order, Source
    from keystone.run import Host
    from keystone.site.model import Site

WORK = Path("/var/lib/keystone/restore")
"""Holds the snapshot on the host that runs the command."""
SECONDS = 3600


@dataclass(frozen=True)
class Restore:
    """What will be done. silent: why other Primers are left out, by name."""

    order: Order
    source: Source
    file: Path
    silent: Mapping[str, str]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Primers that become members of the new cluster."""
        return tuple(self.order.peers)

    def rows(self) -> list[tuple[str, str]]:
        """Return each Primer, with what is done there."""
        done = [(name, "move its data folder aside, restore another") for name in self.hosts]
        return [*done, *((name, f"left out: {why}") for name, why in self.silent.items())]

    def document(self) -> dict[str, object]:
        """Return the same for machines."""
        return {**asdict(self), "file": str(self.file)}


def plan(site: Site, given: Path | None, *, roll_back: bool) -> tuple[Restore, dict[str, Host]]:
    """Look, choose, and bring the snapshot here; no member is changed.

    given: a snapshot file, None for the newest data of any Primer. roll_back: although the quorum
    serves, or newer data is known. Raises RefusedError in these cases, when there is nothing to
    restore from or the file is of another site, DamagedBundleError for a damaged file, HostError
    when no Primer answers.
    """
    hosts = reach.hosts_of(site)
    with log.step(f"look at {', '.join(hosts)}"):
        states, silent = states_of(hosts, reach.CONNECT_SECONDS[site.patience.profile])
    if not states:
        raise HostError("no Primer with etcd answers", hint="; ".join(silent.values()))
    begun = recovery.unfinished(states)
    if begun:
        host = next(name for name, state in states.items() if state.order)
        source = recovery.Source(host, "", f"the snapshot of restore {begun.id}, not finished yet")
        file = _fetch(hosts[host], source, "unfinished")
        _require_same(begun, given)
        return Restore(begun, source, file, silent), hosts
    if not roll_back:
        recovery.require_lost(states)
    if given is None:
        source = recovery.choose(states)
        file = _fetch(hosts[source.host], source, "snapshot" if source.file else "live")
    else:
        source, file = recovery.Source("", str(given), str(given)), given.absolute()
    size, digest = snapshot_files.check(file)
    if given and not roll_back:
        recovery.require_newest(str(given), snapshot_files.revision_of(file), states)
    with log.step(f"restore {source.what} for trial ({log.size(size)})"):
        snapshot_files.try_restore(file, WORK / "trial", maintain.site_fingerprint())
    nodes = [node for node in site.primers if node.name in states]
    order = recovery.order(digest, snapshot_files.revision_of(file), nodes, states)
    return Restore(order, source, file, silent), hosts


def _require_same(begun: Order, given: Path | None) -> None:
    if given is not None and snapshot_files.check(given)[1] != begun.sha256:
        raise RefusedError(
            f"restore {begun.id} is not finished, and {given} is another snapshot",
            hint="finish that restore first: run the same command without --snapshot",
        )


def states_of(
    hosts: Mapping[str, Host], wait: int
) -> tuple[dict[str, MemberState], dict[str, str]]:
    """Ask every host, and return why others are silent. wait: seconds for one that is dead."""

    def ask(host: Host) -> MemberState:
        answer = host.run([INSTALLER, "member", "state"], timeout=120)
        return recovery.parse(json.loads(answer.stdout))

    seen, silent = {}, {}
    with ThreadPoolExecutor(len(hosts)) as pool:
        asked = {name: pool.submit(ask, host.soon(wait)) for name, host in hosts.items()}
        for name, future in asked.items():
            try:
                seen[name] = future.result()
            except (HostError, ValueError, KeyError, TypeError) as error:
                silent[name] = str(error).splitlines()[0]
    return seen, silent


def _fetch(host: Host, source: Source, what: str) -> Path:
    """Bring the snapshot from the host that has it into WORK."""
    WORK.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = WORK / "snapshot.db"
    with log.step(f"fetch {source.what} from {host.name}"), file.open("wb") as sink:
        words = [INSTALLER, "member", "send", what, source.file]
        host.run(words, stdout=sink, timeout=SECONDS)
    return file


def approve(made: Restore, *, yes: bool, approved: str | None) -> None:
    """Ask whether to lose what was written since. Raises RefusedError when nobody agrees."""
    if approved is not None and approved != made.order.id:
        raise RefusedError(
            f"restore {approved} is not this one, which is {made.order.id}",
            hint="show the plan again with --plan",
        )
    if yes or approved:
        return
    if not sys.stdin.isatty():
        raise RefusedError(
            f"restore {made.order.id} needs approval, and there is no terminal to ask on",
            hint=f"show it with --plan, then run again with --approve {made.order.id}",
        )
    if not click.confirm("Restore etcd from this on all these hosts?", default=False, err=True):
        raise RefusedError(f"restore {made.order.id} was not approved", hint="nothing was changed")


def apply(made: Restore, hosts: Mapping[str, Host], site: Site) -> None:
    """Prepare all hosts, swap on all, wait, restart the clients. May be repeated."""
    order = json.dumps(asdict(made.order))

    def stage(name: str) -> None:
        with made.file.open("rb") as stream:
            words = [INSTALLER, "member", "stage", name, order]
            hosts[name].run(words, stdin=stream, timeout=SECONDS)

    def step(verb: str) -> Callable[[str], None]:
        words = [INSTALLER, "member", verb, made.order.id]
        return lambda name: _run(hosts[name], words)

    with log.step(f"restore beside the old data: {', '.join(made.hosts)}"):
        each(made.hosts, stage)
    with log.step("put the restored data in place and start the members"):
        each(made.hosts, step("swap"))
        _wait(made, hosts, site)
    with log.step("restart API servers and kubelets, which cached answers of the old cluster"):
        each(made.hosts, step("finish"))
    shutil.rmtree(WORK, ignore_errors=True)


def _run(host: Host, words: list[str]) -> None:
    host.run(words, timeout=SECONDS)


def _wait(made: Restore, hosts: Mapping[str, Host], site: Site) -> None:
    """Wait until every member of the new cluster is healthy."""
    deadline = time.monotonic() + (1800 if site.patience.profile == "emulated" else 300)
    while (seen := observe_etcd(hosts[made.hosts[0]])).healthy < len(made.hosts):
        if time.monotonic() > deadline:
            raise HostError(
                f"timed out: {seen.healthy} of {len(made.hosts)} restored members are healthy",
                hint="read `journalctl -u etcd` on the hosts, then run the same command again",
            )
        time.sleep(0.5)
