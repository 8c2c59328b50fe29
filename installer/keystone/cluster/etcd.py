"""Quorum arithmetic: which member may start, join or leave next, and when to refuse. Pure.

Rules are etcd's own (etcd.io: FAQ, "runtime reconfiguration", design-learner): a cluster of n
voters needs n // 2 + 1; remove before add; add as a learner, promote when it has caught up; one
change at a time; a member that lost its data is a new member, never the old one with amnesia.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.site.model import Node, Site

CLIENT_PORT = 2379
PEER_PORT = 2380
METRICS_PORT = 2381


@dataclass(frozen=True)
class Timing:
    """Raft's clock, in milliseconds; equal on every member (etcd.io, "tuning")."""

    heartbeat: int
    election: int


TIMINGS = {"normal": Timing(100, 1000), "emulated": Timing(1000, 10000)}


@dataclass(frozen=True)
class Member:
    """A member as the cluster lists it. A learner does not vote."""

    name: str
    learner: bool = False


@dataclass(frozen=True)
class Health:
    """What was observed from outside.

    serving: members that answer and know a leader. with_data: hosts whose data folder holds a
    member. formed: the quorum was seen whole once (the role's marker is on some host).
    """

    serving: frozenset[str] = frozenset()
    with_data: frozenset[str] = frozenset()
    formed: bool = False


@dataclass(frozen=True)
class Bootstrap:
    """Start these together, with the static list of all."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Start these: they have their data and only do not run."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class AddLearner:
    """Add this host as a learner, with an empty data folder."""

    name: str


@dataclass(frozen=True)
class Promote:
    """Make this learner a voter; etcd refuses while it lags, and then it is tried again."""

    name: str


@dataclass(frozen=True)
class Remove:
    """Take this member out. Destructive."""

    name: str


@dataclass(frozen=True)
class Nothing:
    """Members are those that were asked for, and all serve."""


@dataclass(frozen=True)
class Refuse:
    """No step is safe. hint: what a person can do."""

    reason: str
    hint: str


Step = Bootstrap | Start | AddLearner | Promote | Remove | Nothing | Refuse


def quorum(voters: int) -> int:
    """How many of so many voters must agree."""
    return voters // 2 + 1


def next_step(members: tuple[Member, ...], health: Health, target: tuple[str, ...]) -> Step:
    """The next safe step from what is to `target`, the names that shall be voters.

    members: as a serving member lists them; empty when none serves.
    """
    if not members:
        return _from_silence(health, target)
    voters = {member.name for member in members if not member.learner}
    if len(voters & health.serving) < quorum(len(voters)):
        return _without_quorum(voters, health)
    return _with_quorum(members, voters, health, target)


def _from_silence(health: Health, target: tuple[str, ...]) -> Step:
    have = tuple(name for name in target if name in health.with_data)
    if not health.formed:
        # A bootstrap that was cut is simply begun again: same list, same token.
        return Bootstrap(target)
    if len(have) >= quorum(len(target)):
        return Start(have)
    return Refuse(
        f"no etcd member answers, and only {len(have)} of {len(target)} still have their data",
        "bring the lost disks back, or restore a snapshot on all members",
    )


def _without_quorum(voters: set[str], health: Health) -> Step:
    silent = tuple(sorted(voters - health.serving))
    startable = tuple(name for name in silent if name in health.with_data)
    if len(voters & health.serving) + len(startable) >= quorum(len(voters)):
        return Start(startable)
    return Refuse(
        f"etcd has no majority: {', '.join(silent)} do not serve",
        "bring one of them back; if their data is lost, restore a snapshot on all members",
    )


def _with_quorum(
    members: tuple[Member, ...], voters: set[str], health: Health, target: tuple[str, ...]
) -> Step:
    names = {member.name for member in members}
    silent = sorted(names - health.serving)
    # What only stands still comes first: it costs nothing and every later step is safer for it.
    startable = tuple(name for name in silent if name in health.with_data and name in target)
    if startable:
        return Start(startable)
    # Remove before add (etcd's FAQ). A dead member's leaving never costs the majority; a living one
    # leaves only when a wanted voter stays, so a whole quorum can still be moved to other machines.
    if silent:
        return Remove(silent[0])
    unwanted = sorted(names - set(target))
    for name in unwanted:
        if name not in voters or voters & set(target):
            return Remove(name)
    learners = sorted(names - voters)
    if learners:
        return Promote(learners[0])
    absent = [name for name in target if name not in names]
    return AddLearner(absent[0]) if absent else Nothing()


# What etcdctl says


@dataclass(frozen=True)
class MemberStatus:
    """One member for people. state: leader, follower, learner, unstarted or silent."""

    name: str
    endpoint: str
    state: str
    version: str = ""
    database_bytes: int = 0
    raft_index: int = 0
    errors: tuple[str, ...] = ()


def parse_status(
    members: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> tuple[MemberStatus, ...]:
    """Join `etcdctl member list -w json` with `etcdctl endpoint status -w json`, by member id."""
    by_id = {answer["Status"]["header"]["member_id"]: answer for answer in answers}
    return tuple(_status(member, by_id.get(member["ID"])) for member in members)


def _status(member: Mapping[str, Any], answer: Mapping[str, Any] | None) -> MemberStatus:
    name, urls = member.get("name", ""), member.get("clientURLs", ())
    if not urls:
        return MemberStatus(name or "(new)", "", "unstarted")
    if answer is None:
        return MemberStatus(name, urls[0], "silent")
    status = answer["Status"]
    state = "leader" if status.get("leader") == member["ID"] else "follower"
    return MemberStatus(
        name,
        answer["Endpoint"],
        "learner" if status.get("isLearner") else state,
        status["version"],
        status.get("dbSize", 0),
        status.get("raftIndex", 0),
        tuple(status.get("errors", ())),
    )


# From the site file


def initial_cluster(site: Site) -> str:
    """The static list of all members, as etcd takes it: name=peer URL, by comma."""
    return ",".join(f"{node.name}={peer_url(node)}" for node in site.primers)


def peer_url(node: Node) -> str:
    """Where other members reach it."""
    return f"https://{node.address}:{PEER_PORT}"


def client_url(node: Node) -> str:
    """Where API servers and etcdctl reach it."""
    return f"https://{node.address}:{CLIENT_PORT}"


def cluster_token(site: Site) -> str:
    """The same for one site always, so that a bootstrap that was cut goes on as the same cluster.

    A member of another site is kept out by the peer CA, which is random; the token only gives two
    clusters with equal addresses different ids.
    """
    return f"keystone-{hashlib.sha256(site.name.encode()).hexdigest()[:16]}"
