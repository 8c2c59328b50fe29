"""When a member's database is defragmented, and what is done when it fills its quota. Pure.

A deleted or compacted revision leaves a free page in the file: etcd uses it again, and gives it
back only when the member is defragmented, which stops that member for about 10 s for each GiB.
The quota counts the whole file (etcd.io, "Maintenance").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystone import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keystone.cluster.etcd import MemberStatus

FREE_BYTES = 200 << 20
NEAR = 0.8
"""The rule that etcd-defrag's README advises: 200 MiB free, or more than 80 % of the quota used."""
WORTH = 0.1
"""Near the quota a member is defragmented only if that frees this part of its file: otherwise it
would be stopped for nothing at every run."""
SAFE = 0.9
"""An alarm is ended only if every database is below this part of its quota."""
LAG = 5000
"""Entries that a member may be behind; more, and its leader may have to send it a snapshot."""
NOSPACE = "NOSPACE"


@dataclass(frozen=True)
class Go:
    """Defragment this host's member. hand_over: id of the member that leads first, 0 for none."""

    hand_over: int = 0


@dataclass(frozen=True)
class Wait:
    """Do nothing in this run. why: "" if nothing is due."""

    why: str = ""


def used(member: MemberStatus) -> float:
    """Return which part of its quota the member's file is, 0 if the quota is unknown."""
    return member.database_bytes / member.quota_bytes if member.quota_bytes else 0.0


def fragmented(member: MemberStatus) -> bool:
    """Return whether the member should be defragmented."""
    free = member.database_bytes - member.used_bytes
    return free > FREE_BYTES or (used(member) > NEAR and free > WORTH * member.database_bytes)


def unfit(members: Sequence[MemberStatus]) -> str:
    """Say why no member may be stopped now: one does not answer, or lags; "" if all are well.

    The alarm NOSPACE is no reason: it is why a member is defragmented.
    """
    if not members:
        return "no member answers"
    for member in members:
        if not member.answers:
            return f"{member.name} does not answer"
        if not member.leader:
            return f"{member.name} knows no leader"
        if wrong := [text for text in member.errors if NOSPACE not in text]:
            return f"{member.name}: {'; '.join(wrong)}"
    if len({member.leader for member in members}) > 1:
        return "the members do not agree who leads"
    newest = max(member.applied_index for member in members)
    behind = [member.name for member in members if member.applied_index < newest - LAG]
    return f"{', '.join(behind)}: behind the leader" if behind else ""


def turn(members: Sequence[MemberStatus], own: int) -> Go | Wait:
    """Decide whether this host's member is defragmented now: the leader is last.

    own: id of this host's member.
    """
    here = next((member for member in members if member.id == own), None)
    if here is None or not fragmented(here):
        return Wait()
    if why := unfit(members):
        return Wait(why)
    if here.leader != own:
        return Go()
    others = [member for member in members if member.id != own]
    if first := [member.name for member in others if fragmented(member)]:
        return Wait(f"leads, and {', '.join(first)} comes first")
    voters = [member.id for member in others if member.state == "follower"]
    return Go(voters[0] if voters else 0)


def order(members: Iterable[MemberStatus]) -> tuple[MemberStatus, ...]:
    """Return the members in the order in which each may be stopped: the leader last."""
    return tuple(sorted(members, key=lambda one: (one.leader == one.id, one.name)))


def alarmed(members: Iterable[MemberStatus]) -> bool:
    """Return whether etcd refuses writes because a database filled its quota."""
    return any(NOSPACE in text for member in members for text in member.errors)


def filled(members: Sequence[MemberStatus]) -> bool:
    """Return whether etcd refuses writes, or will refuse the next one."""
    return alarmed(members) or any(used(member) >= 1 for member in members)


def near(members: Iterable[MemberStatus]) -> bool:
    """Return whether a database is near its quota."""
    return any(used(member) > NEAR for member in members)


def may_disarm(members: Sequence[MemberStatus]) -> bool:
    """Return whether the alarm can end: no other alarm is raised, and every database has room.

    `etcdctl alarm disarm` ends every alarm, also CORRUPT, which must stay.
    """
    others = [text for member in members for text in member.errors if NOSPACE not in text]
    return not others and all(used(member) < SAFE for member in members)


def full(members: Iterable[MemberStatus]) -> str:
    """Say how full the fullest database is, as in "p2: 3.4 GiB of 4.0 GiB, 3.3 GiB in use"."""
    one = max(members, key=used)
    return (
        f"{one.name}: {log.size(one.database_bytes)} of {log.size(one.quota_bytes)}, "
        f"{log.size(one.used_bytes)} in use"
    )
