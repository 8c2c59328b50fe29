"""How full pools are, and when they were scrubbed, from what zpool prints."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from keystone.storage.zfs import PoolUse, parse_usage

ENDED = dt.datetime(2026, 11, 8, 0, 24, 1, tzinfo=dt.UTC)


def got(health: str = "ONLINE") -> dict[str, Any]:
    values = {"size": 1000, "allocated": "250", "health": health}
    properties = {key: {"value": value} for key, value in values.items()}
    return {"pools": {"keystone": {"properties": properties}}}


def status(**scan: object) -> dict[str, Any]:
    return {"pools": {"keystone": {"error_count": 2, **({"scan_stats": scan} if scan else {})}}}


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ({}, None),
        ({"function": "SCRUB", "state": "FINISHED", "end_time": int(ENDED.timestamp())}, ENDED),
        ({"function": "SCRUB", "state": "FINISHED", "end_time": "1794097441"}, ENDED),
        ({"function": "SCRUB", "state": "FINISHED", "end_time": "in other words"}, None),
        ({"function": "SCRUB", "state": "SCANNING", "end_time": 0}, None),
        ({"function": "RESILVER", "state": "FINISHED", "end_time": 1794097441}, None),
    ],
)
def test_parse_usage(scan: dict[str, object], expected: dt.datetime | None) -> None:
    assert parse_usage(got(), status(**scan)) == (
        PoolUse("keystone", "ONLINE", 1000, 250, 2, expected),
    )


def test_no_pools() -> None:
    assert parse_usage({}, {}) == ()
