"""When a member is defragmented, and whose turn it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keystone.cluster.etcd import MemberStatus, parse_status
from keystone.cluster.upkeep import (
    Go,
    Wait,
    alarmed,
    filled,
    fragmented,
    may_disarm,
    near,
    order,
    turn,
)

MIB, GIB = 1 << 20, 1 << 30
ALARM = "memberID:1 alarm:NOSPACE"


def member(number: int, *, size: int = 500 * MIB, used: int = 100 * MIB, **other: object):  # noqa: ANN201
    made = MemberStatus(
        f"p{number}", f"https://p{number}", "leader" if number == 1 else "follower", "3.6.16",
        size, 100, id=number, used_bytes=used, quota_bytes=4 * GIB, leader=1, applied_index=100,
    )  # fmt: skip
    return replace(made, **other)


@pytest.mark.parametrize(
    ("size", "used", "expected"),
    [
        (30 * MIB, 5 * MIB, False),  # small: etcd uses the free pages again
        (300 * MIB, 99 * MIB, True),
        (300 * MIB, 101 * MIB, False),
        (3400 * MIB, 3000 * MIB, True),  # above 80 % of the quota
        (3400 * MIB, 3390 * MIB, False),  # as full, and nothing to gain
        (0, 0, False),
    ],
)
def test_fragmented(size: int, used: int, expected: bool) -> None:
    assert fragmented(member(2, size=size, used=used)) is expected


FINE = {"used": 450 * MIB}
CASES = {
    "nothing is due": ([member(1, **FINE), member(2, **FINE), member(3, **FINE)], 2, Wait()),
    "a follower": ([member(1), member(2), member(3)], 2, Go()),
    "the leader after the others": ([member(1), member(2, **FINE), member(3, **FINE)], 1, Go(2)),
    "the leader of one": ([member(1)], 1, Go()),
    "the leader hands over to no learner": (
        [member(1), member(2, state="learner", **FINE), member(3, **FINE)], 1, Go(3),
    ),
    "another alarm waits": (
        [member(1), member(2, errors=("memberID:2 alarm:CORRUPT",)), member(3)], 2,
        Wait("p2: memberID:2 alarm:CORRUPT"),
    ),
    "NOSPACE does not": ([member(1, errors=(ALARM,)), member(2, errors=(ALARM,))], 2, Go()),
    "the leader first": (
        [member(1), member(2), member(3)], 1, Wait("leads, and p2, p3 comes first"),
    ),
    "a silent member": (
        [member(1), member(2), member(3, version="", state="silent")], 2,
        Wait("p3 does not answer"),
    ),
    "no leader": ([member(1), member(2), member(3, leader=0)], 2, Wait("p3 knows no leader")),
    "two leaders": (
        [member(1), member(2), member(3, leader=3)], 2,
        Wait("the members do not agree who leads"),
    ),
    "a member that lags": (
        [member(1, applied_index=9000), member(2, applied_index=9000), member(3)], 2,
        Wait("p3: behind the leader"),
    ),
    "a host that is no member": ([member(1)], 7, Wait()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_turn(name: str) -> None:
    members, own, expected = CASES[name]
    assert turn(members, own) == expected


def test_at_most_one_member_of_any_cluster_goes_and_it_is_not_the_leader_first() -> None:
    members = [member(1), member(2), member(3)]
    assert [one.name for one in order(members)] == ["p2", "p3", "p1"]
    assert isinstance(turn(members, 1), Wait)


def test_alarm_ends_only_with_room_and_never_together_with_corruption() -> None:
    full = member(1, size=4 * GIB, used=4 * GIB, errors=(ALARM,))
    assert alarmed([full])
    assert filled([replace(full, errors=())])
    assert not filled([member(1, size=3 * GIB)])
    assert near([full])
    assert not may_disarm([full, member(2)])
    assert may_disarm([member(1, errors=(ALARM,)), member(2)])
    assert not may_disarm([member(1, errors=(ALARM,)), member(2, errors=("alarm:CORRUPT",))])


def test_status_has_sizes_leader_and_alarms() -> None:
    """As etcdctl 3.6.16 printed them."""
    listed = [{"ID": 7, "name": "p1", "clientURLs": ["https://p1:2379"]}]
    answer = {"Endpoint": "https://p1:2379", "Status": {
        "header": {"member_id": 7, "revision": 14}, "version": "3.6.16", "dbSize": 17039360,
        "leader": 7, "raftIndex": 31, "raftTerm": 2, "raftAppliedIndex": 31,
        "errors": ["memberID:7 alarm:NOSPACE "], "dbSizeInUse": 10035200,
        "dbSizeQuota": 16777216,
    }}  # fmt: skip
    (one,) = parse_status(listed, [answer])
    assert (one.id, one.leader, one.revision, one.applied_index) == (7, 7, 14, 31)
    assert (one.used_bytes, one.quota_bytes) == (10035200, 16777216)
    assert one.errors == ("memberID:7 alarm:NOSPACE",)
    assert alarmed([one])
