"""The report of all numbers: a row says met, MISSED, short form or not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.life import figures
from tests.life.figures import Aim, Figure


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEYSTONE_LIFE", str(tmp_path / "life"))
    return tmp_path / "life"


@pytest.mark.parametrize(
    ("value", "times", "expected"),
    [
        (0, 100, "met"), (0, 5, "met, short form: 5 of 100 times"), (1, 100, "MISSED"),
        (1, 5, "MISSED"),
    ],
)  # fmt: skip
def test_row_says_whether_its_aim_is_met(value: float, times: int, expected: str) -> None:
    aim = Aim("writes lost", "writes", 0, 100)
    assert figures.said(aim, Figure("lost", value, "", times, "")) == expected


def test_row_without_an_aim_is_shown_and_one_without_a_figure_was_not_run() -> None:
    aim = Aim("stall", "ms")
    assert figures.said(aim, Figure("stall", 9, "", 1, "")) == "shown"
    assert figures.said(aim, None) == "not run"


def test_report_lists_every_row_and_the_newest_figure(capsys: pytest.CaptureFixture[str]) -> None:
    figures.record("two-lost-seconds", 70.04, "older")
    figures.record("two-lost-seconds", 41.26, "seed 7")
    assert figures.main(["--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == figures.AIMS.keys()
    assert rows["two-lost-seconds"]["figure"]["value"] == 41.3
    assert rows["cycles-lost"]["said"] == "not run"
    assert figures.main([]) == 0
    assert "| 41.3 s | at most 60 s | met | seed 7 |" in capsys.readouterr().out


def test_missed_aim_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    figures.record("cycles-lost", 1, "seed 7", times=100)
    assert figures.main([]) == 1
    assert "| 1 writes | at most 0 writes | MISSED |" in capsys.readouterr().out


def test_figure_without_a_row_is_refused() -> None:
    with pytest.raises(AssertionError, match="not in AIMS"):
        figures.record("speed", 1, "")
