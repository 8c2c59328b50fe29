"""The check of a history: it accepts what is right, and names each thing that is not."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.life import cycles
from tests.life.history import Verdict, check, parse

MS = 1_000_000
Record = dict[str, Any]


def ack(value: int, *, register: int = 0, began: int = 0, took: int = 5, attempts: int = 1,
        revision: int = 0) -> Record:  # fmt: skip
    began = began or value * 100
    return {
        "kind": "ack", "register": register, "value": value, "revision": revision or 10 * value,
        "began": began * MS, "ended": (began + took) * MS, "attempts": attempts,
    }  # fmt: skip


def seen(value: int, *, register: int = 0, revision: int = 0, kind: str = "seen") -> Record:
    return {"kind": kind, "register": register, "value": value, "revision": revision or 10 * value}


def history(*records: Record, there: tuple[int, ...] = (1, 2, 3), final: int = 3) -> Verdict:
    """Check a history of one register with these records between its begin and its end."""
    return check([
        {"kind": "start", "verb": "etcd", "register": 1},
        *records,
        {"kind": "final", "register": 0, "value": final, "revision": 10 * final},
        {"kind": "entries", "register": 0, "values": list(there)},
        {"kind": "end", "register": 0},
    ])  # fmt: skip


def three(*, without: int = 0) -> list[Record]:
    """Return three writes, each one seen, without the events of one of them."""
    made = []
    for value in (1, 2, 3):
        made += [ack(value), *([seen(value)] if value != without else [])]
    return made


def test_whole_history_has_nothing_lost_and_nothing_wrong() -> None:
    verdict = history(*three())
    assert (verdict.writes, verdict.lost, verdict.wrong) == (3, (), ())


def test_acknowledged_write_that_is_not_there_is_lost() -> None:
    verdict = history(*three(), there=(1, 3))
    assert [(write.register, write.value) for write in verdict.lost] == [(0, 2)]


def test_register_below_its_last_acknowledged_value_is_lost() -> None:
    verdict = history(*three(), final=2)
    assert [write.value for write in verdict.lost] == [3]


def test_write_that_failed_may_be_there_or_not() -> None:
    failed = {**ack(4), "kind": "failed", "attempts": 2}
    for there in ((1, 2, 3), (1, 2, 3, 4)):
        verdict = history(*three(), failed, there=there)
        assert (verdict.failed, verdict.lost, verdict.wrong) == (1, (), ())


def test_write_that_the_watch_did_not_report_is_wrong() -> None:
    (sentence,) = history(*three(without=2)).wrong
    assert "did not report 1 acknowledged writes, the first one register 0 = 2" in sentence


def test_events_out_of_order_are_wrong() -> None:
    verdict = history(*three(), seen(2))
    assert "register 0 = 2 at revision 20, after 3 at 30" in verdict.wrong[0]


def test_value_read_after_a_compaction_stands_for_those_before() -> None:
    gap = [{"kind": "compacted", "register": 0, "revision": 25}, seen(2, kind="listed")]
    records = [ack(1), seen(1), ack(2), *gap, ack(3), seen(3)]
    verdict = history(*records)
    assert (verdict.compactions, verdict.wrong) == (1, ())


def test_revision_that_does_not_grow_is_wrong() -> None:
    verdict = history(*three(), ack(4, revision=15), seen(4), there=(1, 2, 3, 4), final=4)
    assert "value 4 was acknowledged at revision 15, after value 3 at 30" in verdict.wrong[0]


def test_read_of_an_older_value_is_wrong() -> None:
    read = {"kind": "read", "register": 0, "value": 2, "began": 1, "ended": 2, "verb": "get"}
    assert "value 2 was read after value 3 was acknowledged" in history(*three(), read).wrong[0]


@pytest.mark.parametrize("kind", ["start", "end"])
def test_history_without_begin_or_end_proves_nothing(kind: str) -> None:
    records = [{"kind": one, "register": 0} for one in ("start", "end") if one != kind]
    assert f"no record {kind!r}" in check([*records, ack(1)]).wrong


def test_history_without_an_acknowledged_write_proves_nothing() -> None:
    assert "no write was acknowledged" in history(final=0, there=()).wrong


def test_stall_lasts_from_the_first_failed_request_to_the_next_success() -> None:
    failed = {**ack(2, began=200, took=2000), "kind": "failed"}
    verdict = history(ack(1), failed, ack(3, began=2300, took=700), there=(1, 3))
    assert verdict.longest() == 2800
    assert verdict.longest(without=[(2500 * MS, 2600 * MS)]) == 5
    assert verdict.longest(without=[(4000 * MS, 5000 * MS)]) == 2800


def test_writer_that_never_succeeds_again_stalls_to_the_end() -> None:
    failed = [{**ack(n, began=n * 1000, took=900), "kind": "failed"} for n in (2, 3, 4)]
    verdict = history(ack(1), *failed, final=1, there=(1,))
    assert verdict.longest() == 2900


def test_writes_through_the_api_are_checked_by_the_last_value_of_each_object() -> None:
    records = [
        {"kind": "start", "verb": "api", "register": 0},
        *({**ack(value, register=value // 3), "verb": "update"} for value in (1, 2, 3)),
        {"kind": "final", "register": 0, "value": 2, "revision": 20},
        {"kind": "end", "register": 0},
    ]
    verdict = check(records)
    assert [(write.register, write.value) for write in verdict.lost] == [(1, 3)]


def test_line_that_a_kill_cut_is_left_out() -> None:
    lines = [json.dumps(ack(1)) + "\n", '{"kind": "ack", "reg']
    assert parse(lines) == [ack(1)]


def test_cycles_are_repeatable_and_never_take_the_majority() -> None:
    names = tuple(f"p{number}" for number in range(1, 6))
    made = [
        list(zip(range(300), cycles.cycles(random.Random(7), names, names[:3]), strict=False))
        for _ in range(2)
    ]
    assert made[0] == made[1]
    members = names[:3]
    for _, cycle in made[0]:
        gone = {cycle.wiped, cycle.killed} - {""}
        assert len(cycle.target) in cycles.SIZES
        assert set(members) & set(cycle.target), "a quorum moves by members that stay"
        assert len(members) - len(gone) > len(members) // 2
        members = cycle.target
    kinds = {cycle.kind for _, cycle in made[0]}
    assert kinds == {"grow", "shrink", "replace", "move"}
