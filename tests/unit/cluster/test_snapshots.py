"""Snapshots of etcd: which are kept, which is the newest, when one is due."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from keystone.cluster import snapshots
from keystone.cluster.snapshots import Snapshot

NOW = dt.datetime(2026, 11, 30, 12, 0, tzinfo=dt.UTC)


def snapshot(ago: dt.timedelta, revision: int = 0, size: int = 100, cluster: str = "c") -> Snapshot:
    counted = revision or 10**6 - int(ago.total_seconds())
    return Snapshot(NOW - ago, counted, size, "0" * 64, cluster, "site", "3.6.16")


def every_five_minutes(days: int) -> list[Snapshot]:
    return [snapshot(dt.timedelta(minutes=5 * number)) for number in range(days * 288)]


def kept_of(taken: list[Snapshot]) -> list[Snapshot]:
    keep = snapshots.to_keep(taken)
    return [one for one in taken if one.name in keep]


def test_ladder_keeps_an_hour_a_day_and_a_week() -> None:
    taken = every_five_minutes(days=9)
    kept = kept_of(taken)
    ages = [NOW - one.taken for one in kept]
    assert sum(age < dt.timedelta(hours=1) for age in ages) == 12
    assert sum(age < dt.timedelta(days=1) for age in ages) >= 12 + 22
    assert max(ages) > dt.timedelta(days=5)
    assert max(ages) < dt.timedelta(days=7)
    assert len(kept) <= 12 + 24 + 7


def test_pruning_twice_removes_nothing_more() -> None:
    taken = every_five_minutes(days=3)
    kept = kept_of(taken)
    assert snapshots.to_keep(kept) == {one.name for one in kept}


def test_ladder_over_time_keeps_old_snapshots() -> None:
    """Pruned after each one, as `maintain` does: the rungs fill, none is thinned out to nothing."""
    held: list[Snapshot] = []
    for one in reversed(every_five_minutes(days=7)):
        held.append(one)
        held = kept_of(held)
    assert len(held) >= 12 + 22 + 5
    assert NOW - min(one.taken for one in held) > dt.timedelta(days=5)


def test_newest_is_kept_when_the_clock_went_back() -> None:
    ahead = [snapshot(-dt.timedelta(days=400 + number), 10 + number) for number in range(60)]
    now = snapshot(dt.timedelta(), 1000)
    assert now.name in snapshots.to_keep([*ahead, now])
    assert snapshots.newest([*ahead, now]) == now


def test_room_is_made_from_the_oldest_and_two_stay() -> None:
    taken = [snapshot(dt.timedelta(hours=hours), size=100) for hours in range(5)]
    oldest_first = [one.name for one in reversed(taken)]
    assert snapshots.to_free(taken, 150, free=150) == ()
    assert snapshots.to_free(taken, 350, free=150) == tuple(oldest_first[:2])
    assert snapshots.to_free(taken, 10**9, free=0) == tuple(oldest_first[:3])


def test_due_when_the_revision_or_the_cluster_changed() -> None:
    last = snapshot(dt.timedelta(), 7)
    assert snapshots.is_due(None, 7, "c")
    assert not snapshots.is_due(last, 7, "c")
    assert snapshots.is_due(last, 8, "c")
    assert snapshots.is_due(last, 7, "other")


def test_description_is_read_as_it_was_written() -> None:
    one = snapshot(dt.timedelta(hours=3))
    assert snapshots.load(snapshots.dump(one)) == one


@pytest.mark.parametrize(
    ("key", "value"),
    [("revision", -1), ("revision", True), ("size", "4"), ("sha256", None), ("taken", "soon"),
     ("taken", "2026-11-30T12:00:00"), ("taken", None)],
)  # fmt: skip
def test_description_with_a_wrong_value_is_refused(key: str, value: object) -> None:
    document = {**json.loads(snapshots.dump(snapshot(dt.timedelta()))), key: value}
    with pytest.raises(ValueError, match=r"."):
        snapshots.load(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "3"])
def test_other_json_is_no_description(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        snapshots.load(text)
