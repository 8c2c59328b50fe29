"""Names of backups, which are kept, when one is due, and what is a manifest."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from keystone.backup import manifest as manifests
from keystone.backup.manifest import Entry, Manifest

NOON = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
MADE = Manifest(
    "north", "ab" * 32, NOON, "p1", 1503, 7, 31, (Entry("pki/sa.key", 227, "cd" * 32, 0o600),)
)


def test_name_says_site_time_and_revision() -> None:
    assert MADE.file_name == "keystone-north-20261130T120000Z-r1503.age"
    assert manifests.named(MADE.file_name) == manifests.Named(1503, NOON, "north", MADE.file_name)


@pytest.mark.parametrize(
    "name",
    ["", "offline.tar", "keystone-north-20261130T120000Z-r1.age.part", "keystone-north-r1.age",
     "keystone-north-20261399T120000Z-r1.age", "keystone-../x-20261130T120000Z-r1.age",
     ".keystone-north-20261130T120000Z-r1.age", "keystone-north-20261130T120000Z-r1.age\n"],
)  # fmt: skip
def test_other_names_are_no_backups(name: str) -> None:
    assert manifests.named(name) is None


def test_manifest_survives_json() -> None:
    assert manifests.load(manifests.dump(MADE)) == MADE


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("format", None), ("site", 3), ("taken", "2026-11-30T12:00:00"), ("taken", "x"),
     ("revision", "1"), ("revision", True), ("files", {}), ("files", [3]),
     ("files", [{"name": "x", "size": -1, "sha256": "", "mode": 0o600}]),
     ("files", [{"name": "x", "size": 1, "sha256": "", "mode": 0o4755}])],
)  # fmt: skip
def test_manifest_of_another_form_is_refused(key: str, value: object) -> None:
    document = json.loads(manifests.dump(MADE))
    with pytest.raises(ValueError):
        manifests.load(json.dumps({**document, key: value}).encode())


def test_oldest_of_this_site_are_removed_and_no_others() -> None:
    names = [f"keystone-north-2026113{day}T120000Z-r{day}.age" for day in (0, 1)] + [
        "keystone-north-20261129T120000Z-r9.age",  # the newest: the clock was set back
        "keystone-south-20200101T000000Z-r1.age",
        "notes.txt",
        ".keystone-north-20261130T120000Z-r0.age.part",
    ]
    assert manifests.to_remove(names, "north", 1) == ("keystone-north-20261130T120000Z-r0.age",)
    assert manifests.to_remove(names, "north", 14) == ()


@pytest.mark.parametrize(
    ("hours", "due"), [(None, True), (-1, True), (0, False), (23.9, False), (24, True)]
)
def test_backup_is_due_after_its_time_or_when_the_clock_was_set(
    hours: float | None, due: bool
) -> None:
    newest = None if hours is None else NOON - dt.timedelta(hours=hours)
    assert manifests.is_due(newest, dt.timedelta(days=1), NOON) is due
