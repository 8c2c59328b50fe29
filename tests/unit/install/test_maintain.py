"""The maintenance: a chore that fails does not stop the others, and its record is kept."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from keystone.errors import HostError
from keystone.install import maintain
from keystone.install.maintain import Chore, Record

if TYPE_CHECKING:
    from pathlib import Path


def works(_last: Record, _now: dt.datetime) -> str:
    return "did it"


def rests(_last: Record, _now: dt.datetime) -> str:
    return ""


def fails(_last: Record, _now: dt.datetime) -> str:
    raise HostError("the disk is full", hint="make room")


def run(tmp_path: Path, *chores: Chore) -> dict[str, Record]:
    report = tmp_path / "report.json"
    maintain.run(chores, report, tmp_path / "lock")
    return maintain.read(report)


def test_chore_that_fails_is_an_error_after_the_others_ran(tmp_path: Path) -> None:
    chores = (Chore("first", "", fails), Chore("second", "", works))
    with pytest.raises(HostError, match="first: the disk is full") as caught:
        run(tmp_path, *chores)
    assert caught.value.hint == "make room"
    records = maintain.read(tmp_path / "report.json")
    assert records["second"].done == "did it"
    assert records["first"].failing_since == records["first"].looked != ""


def test_failure_keeps_its_first_time_until_a_success(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    old = Record(
        failing_since="2026-11-29T00:00:00+00:00", error="x", done="before", done_at="then"
    )
    report.write_bytes(maintain._dump({"first": old}))
    with pytest.raises(HostError):
        maintain.run((Chore("first", "", fails),), report, tmp_path / "lock")
    assert maintain.read(report)["first"].failing_since == old.failing_since
    assert maintain.read(report)["first"].done == "before"
    maintain.run((Chore("first", "", rests),), report, tmp_path / "lock")
    assert maintain.read(report)["first"].failing_since == ""
    assert maintain.read(report)["first"].done == "before"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"snapshot": 3}', '{"snapshot": {"other": 1}}'])
def test_damaged_report_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert run(tmp_path, Chore("one", "", works))["one"].done == "did it"


@pytest.mark.parametrize(
    ("hours", "expected"), [(-1, False), (0, True), (23, True), (24, False), (1000, False)]
)
def test_done_less_than_a_day_ago(hours: int, expected: bool) -> None:
    now = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
    moment = now - dt.timedelta(hours=hours)
    assert maintain._younger(moment.isoformat(), now) is expected
