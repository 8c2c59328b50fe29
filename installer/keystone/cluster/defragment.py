"""Defragment this host's etcd member, and make room when a database fills its quota.

The decisions are in keystone.cluster.upkeep. Both are repeated by every run of the maintenance, so
an interruption is not noted anywhere: the next run looks again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keystone import log
from keystone.cluster import etcdctl, lock, upkeep
from keystone.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.cluster.etcd import MemberStatus

LOCK = "etcd-defragment"
SECONDS = 1800
"""Limit of one defragmentation: about 10 s for each GiB, on slow disks minutes."""
ANSWER_SECONDS = 3
BACK_SECONDS = 300.0
REMOVED = "/keystone/history-removed"
"""A key that is written for the sake of the write; its value is the member that asked for it."""
REMOVED_SECONDS, REFUSED_SECONDS = 60.0, 15.0
ALIKE, ALIKE_BYTES = 1.1, 4 << 20
TOO_MUCH = (
    "remove objects that nobody needs; to see of which kind there are most, on a control plane: "
    "kubectl get --raw /metrics | grep -E '^apiserver_(storage|resource)_objects' | sort -g -k 2"
)


def defragment_here() -> str:
    """Defragment this host's member if that is due and safe; return what was done, "" for nothing.

    Of all Primers one at a time does it (a lock in etcd). Raises HostError when it fails.
    """
    here = etcdctl.own()
    if isinstance(found := upkeep.turn(seen := etcdctl.members(), here), upkeep.Wait):
        _say(found)
        return ""
    if upkeep.filled(seen):
        return ""  # etcd gives no lock then; `make_room` does it for all members
    try:
        with lock.held(LOCK, endpoints=_urls(seen)) as one:
            # Another Primer may have been at it until now.
            found = upkeep.turn(etcdctl.members(), here)
            one.require()
            if isinstance(found, upkeep.Wait):
                _say(found)
                return ""
            return _one(here, found.hand_over)
    except lock.LockHeldError as error:
        log.info(str(error))
        return ""


def make_room(compact_to: int) -> str:
    """Make room when a database is near its quota or has filled it; return what was done.

    One Primer does it for all, the one whose member leads: without room, etcd gives no lock. It
    removes old history, and if writes are refused already, defragments one member after another,
    itself last, and ends the alarm. compact_to: revision up to which history is removed while
    writes still work, 0 for none. Raises HostError if a person must remove objects.
    """
    here, seen = etcdctl.own(), etcdctl.members()
    filled = upkeep.filled(seen)
    if not (filled or upkeep.near(seen)) or not any(one.leader == here == one.id for one in seen):
        return ""
    done = []
    newest = max(one.revision for one in seen)
    if removed := _compact(newest if filled else compact_to):
        done.append("old history removed")
        _wait_for_others(here, may_write=not filled)
    if filled:
        done += _defragment_all(here, every=removed)
        if upkeep.alarmed(now := etcdctl.members()) and upkeep.may_disarm(now):
            etcdctl.tell("alarm", "disarm")
            done.append("the alarm NOSPACE ended")
    _require_room(etcdctl.members(), "; ".join(done))
    return "; ".join(done)


def _require_room(seen: Sequence[MemberStatus], done: str) -> None:
    """Raise HostError if the database itself, without free pages, is near its quota."""
    heavy = [one for one in seen if one.used_bytes > upkeep.NEAR * one.quota_bytes > 0]
    if heavy or upkeep.alarmed(seen):
        state = "refuses writes" if upkeep.alarmed(seen) else "will soon refuse writes"
        raise HostError(
            f"etcd {state}: its database is nearly as large as its quota ({upkeep.full(seen)})"
            + (f"; done: {done}" if done else ""),
            hint=TOO_MUCH,
        )


def _defragment_all(here: int, *, every: bool) -> list[str]:
    """Defragment the members one after another, those that gain nothing only with `every`."""
    done = []
    for one in upkeep.order(etcdctl.members()):
        free = one.database_bytes - one.used_bytes
        if not every and free <= upkeep.WORTH * one.database_bytes:
            continue
        if why := upkeep.unfit(now := etcdctl.members()):
            raise HostError(
                f"etcd refuses writes, and no member can be defragmented: {why}",
                hint="make that member well; the next run of the maintenance goes on",
            )
        if not any(member.leader == here for member in now):
            break  # another member leads now: its host goes on
        _defragment(one)
        done.append(f"{one.name} defragmented")
    return done


def _one(here: int, hand_over: int) -> str:
    if hand_over:
        etcdctl.tell("move-leader", f"{hand_over:x}")
    before = next(one for one in etcdctl.members() if one.id == here)
    _defragment(before)
    after = next(one for one in etcdctl.members() if one.id == here)
    return f"{log.size(before.database_bytes)} became {log.size(after.database_bytes)}"


def _defragment(member: MemberStatus) -> None:
    """Defragment one member, and wait until it serves again."""
    etcdctl.tell("defrag", endpoints=member.endpoint, seconds=SECONDS)
    deadline = time.monotonic() + BACK_SECONDS
    while why := upkeep.unfit(etcdctl.members()):
        if time.monotonic() > deadline:
            raise HostError(
                f"{member.name} was defragmented, and since then: {why}",
                hint=f"look at it: journalctl -u etcd, on {member.name}",
            )
        time.sleep(0.5)


def _compact(revision: int) -> bool:
    """Remove the history before a revision, and wait until that is done; return whether it was."""
    if not revision:
        return False
    try:
        etcdctl.tell("compact", "--physical", str(revision), seconds=300)
    except HostError as error:
        if "has been compacted" in error.message:
            return False
        raise
    return True


def _wait_for_others(here: int, *, may_write: bool) -> None:
    """Wait until the other members removed the history too: etcd waits for one only.

    All hold the same objects, so all come to use about as much of their files. A page that was
    freed counts as used until the next write, so one is made where etcd takes writes. A member that
    takes longer is seen to by the next run.
    """
    deadline = time.monotonic() + (REMOVED_SECONDS if may_write else REFUSED_SECONDS)
    while time.monotonic() < deadline:
        if may_write:
            etcdctl.tell("put", REMOVED, str(here))
        time.sleep(0.5)  # sizes are those of the last commit, which happens ten times a second
        seen = etcdctl.members()
        least = min((one.used_bytes for one in seen), default=0)
        if all(one.used_bytes <= least * ALIKE + ALIKE_BYTES for one in seen):
            return


def _urls(seen: Sequence[MemberStatus]) -> str:
    return ",".join(one.endpoint for one in seen if one.endpoint)


def _say(found: upkeep.Wait) -> None:
    if found.why:
        log.info(f"defragmentation is due and waits: {found.why}")
