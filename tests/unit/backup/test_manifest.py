"""Names of backups, which are kept, when one is due, and what is a manifest."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from keystone.backup import manifest as manifests
from keystone.backup.manifest import Entry, Manifest

NOON = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
FILES = (Entry("pki/sa.key", 227, "cd" * 32, 0o600),)
MADE = Manifest("north", "ab" * 32, "cd" * 32, NOON, "p1", 1503, 7, 31, FILES)


def test_name_says_site_time_and_revision() -> None:
    assert MADE.file_name == "keystone-north-cdcdcdcd-20261130T120000Z-r1503.age"
    said = manifests.Named(1503, NOON, "north", "cdcdcdcd", MADE.file_name)
    assert manifests.named(MADE.file_name) == said


@pytest.mark.parametrize(
    "name",
    ["", "offline.tar", "keystone-north-cdcdcdcd-20261130T120000Z-r1.age.part",
     "keystone-north-cdcdcdcd-r1.age", "keystone-north-20261130T120000Z-r1.age",
     "keystone-north-cdcdcdcd-20261399T120000Z-r1.age",
     "keystone-../x-cdcdcdcd-20261130T120000Z-r1.age",
     ".keystone-north-cdcdcdcd-20261130T120000Z-r1.age",
     "keystone-north-cdcdcdcd-20261130T120000Z-r1.age\n"],
)  # fmt: skip
def test_other_names_are_no_backups(name: str) -> None:
    assert manifests.named(name) is None


def test_manifest_survives_json() -> None:
    assert manifests.load(manifests.dump(MADE)) == MADE


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 1), ("format", None), ("site", 3), ("taken", "2026-11-30T12:00:00"), ("taken", "x"),
     ("revision", "1"), ("revision", True), ("files", {}), ("files", [3]),
     ("files", [{"name": "x", "size": -1, "sha256": "", "mode": 0o600}]),
     ("files", [{"name": "x", "size": 1, "sha256": "", "mode": 0o4755}])],
)  # fmt: skip
def test_manifest_of_another_form_is_refused(key: str, value: object) -> None:
    document = json.loads(manifests.dump(MADE))
    with pytest.raises(ValueError):
        manifests.load(json.dumps({**document, key: value}).encode())


def name(day: int, revision: int, root: str = "cdcdcdcd", site: str = "north") -> str:
    return f"keystone-{site}-{root}-202611{day:02}T120000Z-r{revision}.age"


def test_oldest_of_this_site_are_removed_and_no_others() -> None:
    highest = name(29, 9)  # the newest: the clock was set back
    others = [name(1, 1, site="south"), "notes.txt", f".{name(30, 0)}.part"]
    names = [name(28, 0), name(30, 1), highest, *others]
    assert manifests.to_remove(names, highest, 2) == (name(28, 0),)
    assert manifests.to_remove(names, highest, 14) == ()


def test_site_that_was_made_anew_keeps_its_backups_and_leaves_those_of_the_old_one() -> None:
    old = [name(day, 500000 + day, root="abababab") for day in range(1, 15)]
    assert manifests.to_remove([*old, name(20, 900)], name(20, 900), 14) == ()


def test_backup_that_was_just_written_stays_whatever_its_revision_is() -> None:
    given_up = [name(day, 2_000_000_000 + day) for day in range(1, 15)]
    written = name(20, 1_000_000_900)
    gone = manifests.to_remove([*given_up, written], written, 14)
    assert gone == (name(1, 2_000_000_001),)


@pytest.mark.parametrize(
    ("hours", "due"), [(None, True), (-1, True), (0, False), (23.9, False), (24, True)]
)
def test_backup_is_due_after_its_time_or_when_the_clock_was_set(
    hours: float | None, due: bool
) -> None:
    newest = None if hours is None else NOON - dt.timedelta(hours=hours)
    assert manifests.is_due(newest, dt.timedelta(days=1), NOON) is due
