"""What a person must do at a site, or should know: sentences with commands. Pure.

Every rule gets the same Overview and yields Items; nothing is hidden by something else that is
wrong. `urgent` ones make `status` end with exit code 8.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log
from keystone.ansible.roles.maintain import INTERVAL_SECONDS
from keystone.cluster import upkeep
from keystone.install.maintain import moment
from keystone.install.preflight import CLOCK_SKEW
from keystone.pki import lives, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystone.install.overview import Overview
    from keystone.install.report import HostReport

LATE = dt.timedelta(seconds=3 * INTERVAL_SECONDS)
"""Three runs of the timer: one may be delayed, one may fail."""
TRIAL_LATE = dt.timedelta(days=2)
SCRUB_LATE = dt.timedelta(days=45)
"""Debian scrubs once a month."""
INSTALL = "keystone-install --bundle FILE --site FILE"
PLAN = f"{INSTALL} --plan"
SAID = 100
"""Characters that are shown of what a program said."""
POOL_NEAR = 0.8
"""ZFS writes more slowly to a pool that is fuller."""


@dataclass(frozen=True)
class Item:
    """One thing to do or to know. text: a sentence. command: what to type next, "" for nothing."""

    urgent: bool
    text: str
    command: str = ""


def items(seen: Overview, now: dt.datetime) -> tuple[Item, ...]:
    """Return everything, the urgent first, otherwise in the order of RULES."""
    found = [item for rule in RULES for item in rule(seen, now)]
    return tuple(sorted(dict.fromkeys(found), key=lambda item: not item.urgent))


def age(span: dt.timedelta) -> str:
    """Format an age for people: 40 s, 12 min, 5 h, 3 d; a moment in the future is "0 s"."""
    seconds = max(int(span.total_seconds()), 0)
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds // length} {unit}"
    return f"{seconds // 86400} d"


def reason(message: str) -> str:
    """Return why a host did not answer, from an error of `run.Host`, without host and command."""
    text = re.sub(r"^\S+( \([^)]*\))?: ", "", message.splitlines()[0])
    return re.sub(r"^(timed out after \d+ s): .*|^cannot be reached: (?:ssh: )?(?=.)", r"\1", text)


def primers(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Primers that do not answer, or have no report."""
    for name, error in seen.silent.items():
        first, *more = error.message.splitlines()
        if more and "SSH host key" in first:  # it answers, and the key is refused
            said = f"{reason(error.message)}; {' '.join(line.strip() for line in more)}"
            yield _act(f"{name} {said}", error.hint)
            continue
        key = seen.site.ssh.key_file or "of root"
        yield _act(
            f"{name} does not answer: {_short(reason(error.message))}",
            f"run it on {seen.site.primers[0].name}, or copy the private ssh key here: {key}"
            if "Permission denied" in error.message
            else f"start it, or look at its network; then: ssh {seen.login(name)}",
        )
    for name, why in seen.unreported.items():
        yield _act(
            f"{name} gives no report: {_short(reason(why))}",
            f"ssh {seen.login(name)} keystone-install member report",
        )


def quorum(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Members that do not answer, alarms, and a majority that is gone."""
    if not seen.reports:
        return
    members = seen.members
    if members and not seen.serves:
        yield _act(
            f"etcd has no majority: {seen.healthy} of {seen.voters} members answer; nothing can be "
            "written, and the API does not work",
            "start the missing Primers; if their data is lost: keystone-install etcd restore",
        )
    expected = {node.name for node in seen.site.primers}
    for member in members:
        lost = member.state in ("silent", "unstarted")
        if lost and member.name not in seen.silent:
            yield _act(
                f"etcd member {member.name} does not run",
                f"on {member.name}: systemctl status etcd; journalctl -u etcd",
            )
    names = {member.name for member in members}
    if members and (absent := sorted(expected - names)):
        yield _act(f"etcd does not list {', '.join(absent)}, which the site file names", PLAN)
    for text in dict.fromkeys(text for member in members for text in member.errors):
        if upkeep.NOSPACE not in text:
            yield _act(f"etcd reports: {text}", "keystone-install etcd status")


def room(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """A database that filled its quota, or is near it."""
    there = [member for member in seen.members if member.answers]
    if upkeep.alarmed(there):
        yield _act(
            f"etcd refuses writes: its database filled its quota ({upkeep.full(there)})",
            "on the leader's host: systemctl start keystone-maintain; it makes room or says why "
            "not: journalctl -u keystone-maintain",
        )
    elif upkeep.near(there):
        yield _act(
            f"etcd's database is near its quota ({upkeep.full(there)})",
            "remove objects that nobody needs; journalctl -u keystone-maintain on "
            f"{seen.leader or 'each Primer'} says which there are most of",
        )


def api(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """An API that does not answer, nodes that are not Ready, workloads that miss replicas."""
    planes = [node.name for node in seen.site.control_planes if node.name in seen.reports]
    installed = [name for name in planes if "control_plane" in seen.roles(name)]
    if installed and seen.cluster is None:
        yield _act(
            "the Kubernetes API does not answer on any Primer that answers",
            f"on {installed[0]}: crictl ps -a; journalctl -u kubelet",
        )
    if seen.cluster is None:
        return
    for node in seen.cluster.nodes:
        if not node.ready and node.name not in seen.silent:
            yield _act(
                f"node {node.name} is not Ready",
                f"kubectl describe node {node.name}; there: journalctl -u kubelet",
            )
    if seen.cluster.unavailable:
        yield _act(
            _short(f"workloads miss replicas: {', '.join(seen.cluster.unavailable)}"),
            "kubectl get pods --all-namespaces -o wide",
        )


def certificates(seen: Overview, now: dt.datetime) -> Iterator[Item]:
    """Certificates with less than a third of their life left."""
    for authority, what, command in (
        (False, "certificate", INSTALL),
        (True, "authority", "look at all of them: keystone-install trust show"),
    ):
        due = [
            (life, name)
            for name, report in seen.reports.items()
            for life in report.certificates
            if life.authority is authority and life.short(now)
        ]
        if due:
            life, name = min(due, key=lambda one: one[0].not_after)
            more = f", and {len(due) - 1} more" if len(due) > 1 else ""
            ends = "has ended" if life.not_after <= now else f"ends in {age(life.not_after - now)}"
            yield _act(f"{what} {life.path} on {name} {ends}{more}", command)
    roots = {facts.standing.root.strip() for facts in seen.seen.values()} - {""}
    if len(roots) > 1:
        yield _act("the Primers have different roots of trust", PLAN)


def sealed(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Primers whose sealed keys nobody has opened, have some in plain text, or lack a helper."""
    every = {node.name for node in seen.site.primers} if seal.wanted(seen.site) else set()
    for name, facts in seen.seen.items():
        if facts.seal.shut:
            yield _act(
                f"{name}: its keys are sealed, and no other Primer has opened them",
                f"on {name}: journalctl -u keystone-unseal",
            )
        elif facts.seal.plain:
            yield _know(
                f"{name}: {facts.seal.plain[0]} is in plain text on its disk",
                f"on {name}: keystone-install trust seal",
            )
        elif facts.seal.peers and (missing := sorted(every - {name, *facts.seal.peers})):
            yield _know(
                f"{name}: its sealed keys wait for {' and '.join(missing)}: after a start only "
                f"{' or '.join(facts.seal.peers)} opens them",
                f"once {' and '.join(missing)} is back, the timer seals for it; else {INSTALL}",
            )


def pools(seen: Overview, now: dt.datetime) -> Iterator[Item]:
    """Pools that lost a disk or have damaged files, that are nearly full, or were not scrubbed."""
    for name, report in seen.reports.items():
        for pool in report.pools:
            if pool.health != "ONLINE" or pool.errors:
                damage = f", {log.count(pool.errors, 'damaged file')}" if pool.errors else ""
                yield _act(
                    f"{name}: pool {pool.name} is {pool.health}{damage}",
                    f"on {name}: zpool status -v {pool.name}",
                )
            if pool.allocated > POOL_NEAR * pool.size:
                yield _act(
                    f"{name}: pool {pool.name} is {100 * pool.allocated // pool.size} % full",
                    f"on {name}: zfs list -o space -r {pool.name}",
                )
            if pool.scrubbed is None or now - pool.scrubbed > SCRUB_LATE:
                when = f"{age(now - pool.scrubbed)} ago" if pool.scrubbed else "never, as it seems"
                yield _know(
                    f"{name}: pool {pool.name} was scrubbed {when}",
                    f"on {name}: zpool scrub {pool.name}",
                )


def snapshots(seen: Overview, now: dt.datetime) -> Iterator[Item]:
    """Primers without a snapshot of the current data, or without a trial restore."""
    for name, report in seen.reports.items():
        if report.since is None or now - report.since < LATE:
            continue  # the timer has not had the time
        newest, revision = report.snapshots, seen.revision
        if newest.taken is None:
            yield _act(
                f"{name} has no snapshot of etcd", f"on {name}: keystone-install etcd snapshot take"
            )
        elif now - newest.taken > LATE and newest.revision < revision:
            yield _act(
                f"the newest snapshot on {name} is {age(now - newest.taken)} old",
                f"on {name}: journalctl -u keystone-maintain",
            )
        tried = report.maintenance.get("trial restore")
        if tried and tried.done_at and now - moment(tried.done_at) > TRIAL_LATE:
            yield _act(
                f"no snapshot on {name} was restored for trial for "
                f"{age(now - moment(tried.done_at))}",
                f"on {name}: journalctl -u keystone-maintain",
            )


def backups(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """A site of which no backup leaves it; keys that are sealed need one most."""
    if seen.site.backup is None and not seen.site.trial:
        yield _know(
            "no backup leaves this site: if all Primers are lost, or all but one that restarts and "
            "whose keys are sealed, nothing brings it back",
            "add spec.backup to the site file: keystone-install backup keys init KEYFILE",
        )


def maintenance(seen: Overview, now: dt.datetime) -> Iterator[Item]:
    """Chores that fail, and a timer that does not run."""
    for name, report in seen.reports.items():
        # One cause often stops several chores: a member that does not run.
        causes: dict[str, list[str]] = {}
        for chore, record in report.maintenance.items():
            if record.error:
                causes.setdefault(record.error, []).append(chore)
        for error, chores in causes.items():
            record = report.maintenance[chores[0]]
            since = age(now - moment(record.failing_since)) if record.failing_since else "now"
            fails = "fails" if len(chores) == 1 else "fail"
            yield _act(
                f"{name}: {', '.join(chores)} {fails} for {since}: {_short(error)}",
                record.hint or f"on {name}: journalctl -u keystone-maintain",
            )
        if report.since and now - max(last_run(report), report.since) > LATE:
            yield _act(
                f"{name}: the maintenance has not run for the last {age(LATE)}",
                f"on {name}: systemctl status keystone-maintain.timer keystone-maintain",
            )


def last_run(report: HostReport) -> dt.datetime:
    """Return when the maintenance last looked at anything; 1970 if it never ran."""
    runs = (moment(record.looked) for record in report.maintenance.values() if record.looked)
    return max(runs, default=lives.NEVER)


def versions(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Primers with another bundle than most, or that run other versions than their bundle."""
    bundles = {facts.store.bundle for facts in seen.seen.values()}
    without = [name for name, facts in seen.seen.items() if not facts.store.complete]
    if without:
        yield _act(f"the store is incomplete on {', '.join(without)}", INSTALL)
    elif len(bundles) > 1:
        yield _act("the Primers have different bundles in their stores", INSTALL)
    for name, facts in seen.seen.items():
        carried = seen.reports[name].carried if name in seen.reports else None
        if carried is None or not carried.name:
            continue
        for what, runs, has in (
            ("Kubernetes", facts.standing.kubernetes, carried.kubernetes),
            ("etcd", facts.standing.etcd, carried.etcd),
        ):
            if runs and runs.removeprefix("v") != has:
                yield _act(
                    f"{name} runs {what} {runs.removeprefix('v')}, its bundle has {has}", PLAN
                )


def hosts(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Files that differ from what roles wrote, units that do not run, clocks that disagree."""
    for name, facts in seen.seen.items():
        drift = [line for state in facts.roles.values() for line in state.drift]
        if drift:
            more = f", and {len(drift) - 1} more" if len(drift) > 1 else ""
            yield _act(f"{name}: {drift[0]}{more}", PLAN)
    offsets = [(facts.clock_offset, facts.clock_error) for facts in seen.seen.values()]
    if offsets:
        spread = max(offsets)[0] - min(offsets)[0]
        if spread > CLOCK_SKEW + 2 * max(error for _, error in offsets):
            yield _act(
                f"the Primers' clocks differ by {log.duration(spread)}",
                "on each: chronyc tracking; date",
            )


def parts(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """Parts of a host's report that could not be looked at, and are not said above."""
    for name, report in seen.reports.items():
        for part, why in report.wrong.items():
            if part not in ("members", "serves", "cluster"):
                yield _act(
                    f"{name}: its {part} cannot be seen: {_short(why)}",
                    f"ssh {seen.login(name)} keystone-install member report",
                )


def root_key(seen: Overview, _now: dt.datetime) -> Iterator[Item]:
    """The offline root's key, while it is on this Primer."""
    if seen.root_key:
        yield _know(
            "the offline root's key is on this Primer: anyone who takes the machine "
            "can make certificates of this site",
            f"copy {seen.root_key[0]} to two media that you lock away; then: shred -u "
            + " ".join(map(str, seen.root_key)),
        )


RULES: tuple[Callable[[Overview, dt.datetime], Iterator[Item]], ...] = (
    primers, quorum, room, api, certificates, sealed, pools, snapshots, backups, maintenance,
    versions, hosts, parts, root_key,
)  # fmt: skip


def _act(text: str, command: str) -> Item:
    return Item(urgent=True, text=text, command=command)


def _know(text: str, command: str) -> Item:
    return Item(urgent=False, text=text, command=command)


def _short(text: str) -> str:
    """Shorten what a program said, so that one line of it does not push the rest off the screen."""
    one = " ".join(text.split())
    return one if len(one) <= SAID else f"{one[: SAID - 1]}…"


__all__ = ["Item", "age", "items", "last_run"]
