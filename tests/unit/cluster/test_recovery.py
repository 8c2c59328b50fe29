"""What a lost quorum is restored from, and when a restore is refused."""

from __future__ import annotations

import datetime as dt
import json
from ipaddress import IPv4Address

import pytest

from keystone.cluster import recovery
from keystone.cluster.recovery import MemberState, Order
from keystone.cluster.snapshots import Snapshot
from keystone.errors import RefusedError
from keystone.site.model import Node

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def snapshot(revision: int) -> Snapshot:
    return Snapshot(NOW, revision, 100, "0" * 64, "c", "site", "3.6.16")


NODES = [Node(f"p{number}", IPv4Address(f"10.77.0.1{number}")) for number in (1, 2, 3)]
ORDER = Order("a", "f" * 64, {"p1": "https://10.77.0.11:2380"}, 10**9)


def test_running_member_is_preferred_to_an_equal_snapshot() -> None:
    states = {"p1": MemberState(snapshots=(snapshot(9),)), "p2": MemberState(9)}
    assert recovery.choose(states) == recovery.Source("p2", "", "the data of its running member")


def test_newest_snapshot_of_any_host_is_chosen() -> None:
    states = {
        "p1": MemberState(snapshots=(snapshot(7), snapshot(9))),
        "p2": MemberState(snapshots=(snapshot(10), snapshot(8))),
    }
    source = recovery.choose(states)
    assert (source.host, source.file) == ("p2", snapshot(10).name)


def test_snapshot_newer_than_a_running_member_is_chosen() -> None:
    """A member that was cut off before the others lacks their last writes."""
    states = {"p1": MemberState(5), "p2": MemberState(snapshots=(snapshot(9),))}
    assert recovery.choose(states).host == "p2"


def test_nothing_to_restore_from_is_refused_and_names_the_backup() -> None:
    with pytest.raises(RefusedError, match="no Primer that answers") as caught:
        recovery.choose({"p1": MemberState(), "p2": MemberState()})
    assert "--snapshot FILE" in caught.value.hint


def test_file_that_is_older_than_what_is_known_is_refused_with_where_that_is() -> None:
    states = {"p1": MemberState(), "p2": MemberState(snapshots=(snapshot(9), snapshot(7)))}
    for revision in (9, 10):
        recovery.require_newest("/mnt/old.db", revision, states)
    with pytest.raises(
        RefusedError, match=r"old\.db: older \(revision 8\) .* p2 \(revision 9\)"
    ) as one:
        recovery.require_newest("/mnt/old.db", 8, states)
    assert "--roll-back" in one.value.hint
    with pytest.raises(RefusedError, match=r"on p1 \(revision 12\)"):
        recovery.require_newest("/mnt/old.db", 9, {**states, "p1": MemberState(12)})


def test_restore_is_refused_while_a_member_serves() -> None:
    recovery.require_lost({"p1": MemberState(5), "p2": MemberState()})
    with pytest.raises(RefusedError, match="the etcd quorum serves"):
        recovery.require_lost({"p1": MemberState(5, serves=True), "p2": MemberState()})


def test_unfinished_restore_is_found_on_any_host() -> None:
    assert recovery.unfinished({"p1": MemberState(order=ORDER), "p2": MemberState()}) == ORDER
    assert recovery.unfinished({"p1": MemberState()}) is None


def test_different_unfinished_restores_are_refused_by_host() -> None:
    other = Order("b", "e" * 64, ORDER.peers, 10**9)
    with pytest.raises(RefusedError, match="p1: a, p2: b"):
        recovery.unfinished({"p1": MemberState(order=ORDER), "p2": MemberState(order=other)})


def test_unfinished_restore_is_refused_while_one_of_its_hosts_is_silent() -> None:
    with pytest.raises(RefusedError, match="these do not answer: p1"):
        recovery.unfinished({"p2": MemberState(order=ORDER)})


def test_order_leads_above_every_known_revision() -> None:
    """Else a snapshot of the cluster that was rolled back would count as the newest."""
    states = {"p1": MemberState(2 * 10**9 + 5), "p2": MemberState(snapshots=(snapshot(7),))}
    order = recovery.order("f" * 64, 1000, NODES[:2], states)
    assert 1000 + order.bump > 2 * 10**9 + 5 + 10**9 - 1
    assert recovery.order("f" * 64, 9, NODES[:1], {"p1": MemberState(9)}).bump == 10**9


def test_order_has_one_id_until_it_is_finished() -> None:
    states = {name: MemberState(5) for name in ("p1", "p2", "p3")}
    one = recovery.order("f" * 64, 5, NODES, states)
    assert one == recovery.order("f" * 64, 5, NODES, states)
    assert one.peers["p3"] == "https://10.77.0.13:2380"
    assert one.id != recovery.order("e" * 64, 5, NODES, states).id
    assert one.id != recovery.order("f" * 64, 5, NODES[:2], states).id
    after = {**states, "p2": MemberState(5, last=one.id)}
    assert one.id != recovery.order("f" * 64, 5, NODES, after).id


def test_state_is_read_as_a_host_wrote_it() -> None:
    for order in (None, ORDER):
        state = MemberState(5, serves=True, order=order, last="x", snapshots=(snapshot(3),))
        assert recovery.parse(json.loads(json.dumps(recovery.as_document(state)))) == state
