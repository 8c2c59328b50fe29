"""Quorum arithmetic: which member may start, join or leave next, and when to refuse. Pure.

The rules are etcd's (etcd.io: FAQ, "runtime reconfiguration", design-learner): a cluster of n
voters needs n // 2 + 1; remove before add; add as a learner, promote when it has caught up; one
change at a time; a member that lost its data must be removed and added as a new member.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.site.model import Node, Site

CLIENT_PORT = 2379
PEER_PORT = 2380
METRICS_PORT = 2381


@dataclass(frozen=True)
class Timing:
    """Raft's timing, in milliseconds; equal on every member (etcd.io, "tuning")."""

    heartbeat: int
    election: int


TIMINGS = {"normal": Timing(100, 1000), "emulated": Timing(1000, 10000)}


@dataclass(frozen=True)
class Member:
    """A member as the cluster lists it. A learner does not vote.

    started: False for one that was added and never ran: the cluster does not know its name yet.
    """

    name: str
    learner: bool = False
    started: bool = True


@dataclass(frozen=True)
class Health:
    """The observed state of the members.

    serving: members that answer and know a leader. with_data: hosts whose data folder holds a
    member. formed: all members were once healthy together (some host has the role's marker).
    lagging: members that serve but lack much of what the leader has. unknown: hosts that were not
    observed, so that nobody knows whether they have data. leader: "" if it is not known.
    """

    serving: frozenset[str] = frozenset()
    with_data: frozenset[str] = frozenset()
    formed: bool = False
    lagging: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    leader: str = ""


@dataclass(frozen=True)
class Bootstrap:
    """Start these members together, with the static list of all."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Start these members: they have their data but do not run."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class AddLearner:
    """Add this host as a learner, with an empty data folder."""

    name: str


@dataclass(frozen=True)
class Promote:
    """Make this learner a voter; etcd refuses while it lags, then the step is repeated."""

    name: str


@dataclass(frozen=True)
class Await:
    """Wait until these members have caught up with the leader."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class MoveLeader:
    """Make this voter the leader, because the present one will be removed."""

    name: str


@dataclass(frozen=True)
class Remove:
    """Remove this member from the cluster. Destructive."""

    name: str


@dataclass(frozen=True)
class Nothing:
    """No step is needed: the members are the wanted ones, and all serve."""


@dataclass(frozen=True)
class Refuse:
    """No step is safe. hint: the next step for a person."""

    reason: str
    hint: str


Step = Bootstrap | Start | AddLearner | Promote | Await | MoveLeader | Remove | Nothing | Refuse


def steps(members: tuple[Member, ...], health: Health, target: tuple[str, ...]) -> tuple[Step, ...]:
    """Return all steps to `target`, if each one succeeds; the last may be a Refuse.

    For the plan that a person approves: what is done later is decided again by `next_step`.
    """
    found: list[Step] = []
    while not isinstance(step := next_step(members, health, target), Nothing):
        found.append(step)
        if isinstance(step, Refuse):
            break
        members, health = after(members, health, step)
    return tuple(found)


def after(
    members: tuple[Member, ...], health: Health, step: Step
) -> tuple[tuple[Member, ...], Health]:
    """Return members and health after a step that succeeded."""
    serving, data = health.serving, health.with_data
    match step:
        case Bootstrap(names):
            members = tuple(Member(name) for name in names)
            return members, Health(frozenset(names), frozenset(names), formed=True)
        case Start(names):
            members = members or tuple(Member(name) for name in names)
            members = tuple(
                Member(m.name, m.learner, m.started or m.name in names) for m in members
            )
            serving, data = serving | set(names), data | set(names)
        case AddLearner(name):
            members = (*members, Member(name, learner=True))
            serving, data = serving | {name}, data | {name}
        case Promote(name):
            members = tuple(Member(m.name, m.learner and m.name != name) for m in members)
        case Await(names):
            return members, replace(health, lagging=health.lagging - set(names))
        case MoveLeader(name):
            return members, replace(health, leader=name)
        case Remove(name):
            members = tuple(member for member in members if member.name != name)
            serving, data = serving - {name}, data - {name}
    return members, replace(health, serving=serving, with_data=data, formed=True)


def quorum(voters: int) -> int:
    """Return the majority of that many voters."""
    return voters // 2 + 1


def next_step(members: tuple[Member, ...], health: Health, target: tuple[str, ...]) -> Step:
    """Return the next safe step towards `target`, the names of the wanted voters.

    members: as a serving member lists them; empty if none serves.
    """
    if not members:
        return _without_members(health, target)
    voters = {member.name for member in members if not member.learner}
    if len(voters & health.serving) < quorum(len(voters)):
        return _without_quorum(voters, health)
    return _with_quorum(members, voters, health, target)


def _without_members(health: Health, target: tuple[str, ...]) -> Step:
    have = tuple(name for name in target if name in health.with_data)
    if not health.formed:
        # An interrupted bootstrap starts again with the same list and the same token.
        return Bootstrap(target)
    if len(have) >= quorum(len(target)):
        return Start(have)
    return Refuse(
        f"no etcd member answers, and only {len(have)} of {len(target)} hosts still have its data",
        "restore the lost disks, or restore a snapshot on all members",
    )


def _without_quorum(voters: set[str], health: Health) -> Step:
    silent = tuple(sorted(voters - health.serving))
    startable = tuple(name for name in silent if name in health.with_data)
    if len(voters & health.serving) + len(startable) >= quorum(len(voters)):
        return Start(startable)
    return Refuse(
        f"etcd has no majority: no answer from {', '.join(silent)}",
        "make one of them run again; if their data is lost, restore a snapshot on all members",
    )


def _with_quorum(
    members: tuple[Member, ...], voters: set[str], health: Health, target: tuple[str, ...]
) -> Step:
    names, wanted = {member.name for member in members}, set(target)
    silent = sorted(names - health.serving)
    # Stopped members come first: starting them has no risk and makes every later step safer.
    # A learner that was added and never ran starts with an empty folder.
    can = health.with_data | {member.name for member in members if not member.started}
    startable = tuple(n for n in silent if n in wanted and n in can and n not in health.unknown)
    if startable:
        return Start(startable)
    # Remove before add (etcd's FAQ). Removing a dead member never loses the majority.
    for name in silent:
        if name in wanted & health.unknown:
            return Refuse(
                f"etcd's member {name} does not answer, and its host was not observed",
                "make its machine answer, or take it out of the site file",
            )
        return Remove(name)
    learners = sorted(names - voters)
    if learners:
        return _with_learner(learners[0], health, wanted)
    absent = [name for name in target if name not in names]
    # Of a quorum that moves to other machines one comes for each that goes, so that neither the
    # failures that it tolerates nor the members that each write must reach change much.
    if absent and (len(voters) <= len(target) or not voters & wanted):
        late = tuple(sorted(names & health.lagging))
        return Await(late) if late else AddLearner(absent[0])
    unwanted = sorted(names - wanted, key=lambda name: (name == health.leader, name))
    return removal(members, health, target, unwanted[0]) if unwanted else Nothing()


def _with_learner(name: str, health: Health, wanted: set[str]) -> Step:
    if name not in wanted:
        return Remove(name)
    return Await((name,)) if name in health.lagging else Promote(name)


def removal(
    members: tuple[Member, ...], health: Health, target: tuple[str, ...], name: str
) -> Step:
    """Return the next safe step towards the removal of one member, in a cluster with a majority.

    A member that serves is removed only if those that remain, without those that lag, are a
    majority of themselves; the leader only after another one leads.
    """
    voters = {member.name for member in members if not member.learner}
    if len(voters & health.serving) < quorum(len(voters)):
        return _without_quorum(voters, health)
    if name not in voters or name not in health.serving:
        return Remove(name)
    rest = voters - {name}
    fit = rest & health.serving - health.lagging
    if not rest or len(fit) < quorum(len(rest)):
        if late := tuple(sorted(rest & health.lagging)):
            return Await(late)
        return Refuse(
            f"etcd would lose its majority without {name}: only {len(fit)} of {len(rest)} others "
            "serve",
            "repair or replace the members that do not serve first",
        )
    if name == health.leader:
        return MoveLeader(min(fit & set(target) or fit))
    return Remove(name)


# Output of etcdctl


@dataclass(frozen=True)
class MemberStatus:
    """One member, as it answers. state: leader, follower, learner, unstarted or silent.

    id: etcd's. database_bytes: size of its file; used_bytes: of the part in use; quota_bytes: the
    limit, 0 if unknown. leader: id of the member that it follows, 0 without one. errors: alarms,
    and what is wrong with it.
    """

    name: str
    endpoint: str
    state: str
    version: str = ""
    database_bytes: int = 0
    raft_index: int = 0
    errors: tuple[str, ...] = ()
    id: int = 0
    used_bytes: int = 0
    quota_bytes: int = 0
    leader: int = 0
    revision: int = 0
    applied_index: int = 0

    @property
    def answers(self) -> bool:
        """True for a member that answered, with a leader or without."""
        return bool(self.version)


def parse_status(
    members: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> tuple[MemberStatus, ...]:
    """Join `etcdctl member list -w json` with `etcdctl endpoint status -w json`, by member id."""
    by_id = {answer["Status"]["header"]["member_id"]: answer for answer in answers}
    return tuple(_status(member, by_id.get(member["ID"])) for member in members)


def _status(member: Mapping[str, Any], answer: Mapping[str, Any] | None) -> MemberStatus:
    name, urls = member.get("name", ""), member.get("clientURLs", ())
    if not urls:
        return MemberStatus(name or "(new)", "", "unstarted", id=member["ID"])
    if answer is None:
        return MemberStatus(name, urls[0], "silent", id=member["ID"])
    status = answer["Status"]
    state = "leader" if status.get("leader") == member["ID"] else "follower"
    return MemberStatus(
        name,
        answer["Endpoint"],
        "learner" if status.get("isLearner") else state,
        status["version"],
        status.get("dbSize", 0),
        status.get("raftIndex", 0),
        tuple(text.strip() for text in status.get("errors", ())),
        id=member["ID"],
        used_bytes=status.get("dbSizeInUse", 0),
        quota_bytes=status.get("dbSizeQuota", 0),
        leader=status.get("leader", 0),
        revision=status["header"].get("revision", 0),
        applied_index=status.get("raftAppliedIndex", 0),
    )


# Computed from the site file


def initial_cluster(nodes: Sequence[Node]) -> str:
    """Return the static list of all members for etcd: name=peer URL, separated by commas."""
    return ",".join(f"{node.name}={peer_url(node)}" for node in nodes)


def peer_url(node: Node) -> str:
    """Return the URL at which other members reach the node."""
    return f"https://{node.address}:{PEER_PORT}"


def client_url(node: Node) -> str:
    """Return the URL at which API servers and etcdctl reach the node."""
    return f"https://{node.address}:{CLIENT_PORT}"


def cluster_token(site: Site) -> str:
    """Return the site's token, always the same: a repeated bootstrap makes the same cluster.

    The peer CA, which is random, keeps members of other sites out; the token only gives two
    clusters with equal addresses different ids.
    """
    return f"keystone-{hashlib.sha256(site.name.encode()).hexdigest()[:16]}"
