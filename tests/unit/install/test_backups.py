"""When a Primer makes a backup, what it reports, and how a site comes back from one."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.install.test_phases import state

from keystone import run
from keystone.backup import places
from keystone.backup.manifest import Manifest
from keystone.backup.opened import Opened
from keystone.cluster.recovery import MemberState
from keystone.cluster.snapshots import Snapshot
from keystone.errors import RefusedError
from keystone.install import backups, from_backup, phases
from keystone.install.backups import Last
from keystone.install.from_backup import ForgetBackup, ReleaseNames, RestoreBackup
from keystone.install.state import State
from keystone.site.backup import Backup, Destination
from keystone.site.model import Site

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MADE = Manifest("lab", "", "", NOW, "p1", 9, 1, 1, ())
OPENED = Opened(MADE, placed=True, pending=True, older=False)


def last(age: dt.timedelta) -> Last:
    return Last("keystone-lab.age", NOW - age, 100, "", "p2")


def wanted(to: Destination) -> Site:
    return replace(state().site, backup=Backup(("age1",), (to,), DAY))


@pytest.mark.parametrize("hours", [0, 24.5])
def test_destination_that_another_primer_reaches_is_no_error(tmp_path: Path, hours: float) -> None:
    to = Destination(str(tmp_path / "missing"))
    assert not backups._reachable(wanted(to), to, last(dt.timedelta(hours=hours)), NOW)


@pytest.mark.parametrize("known", [None, last(dt.timedelta(hours=26))])
def test_destination_that_no_primer_reaches_is_an_error(tmp_path: Path, known: Last | None) -> None:
    to = Destination(str(tmp_path / "missing"))
    with pytest.raises(places.AbsentError):
        backups._reachable(wanted(to), to, known, NOW)


def test_folder_on_the_primers_own_disk_is_no_place_for_a_backup(tmp_path: Path) -> None:
    """A mount point is a folder also while nothing is mounted there."""
    with pytest.raises(places.AbsentError, match="nothing is mounted there"):
        places.require_other_disk(tmp_path, [tmp_path.parent])
    places.require_other_disk(Path("/proc"), [tmp_path])
    places.require_other_disk(tmp_path / "missing", [tmp_path])


def test_only_a_trial_site_may_keep_its_backups_on_its_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "STATE", tmp_path)
    to = Destination(str(tmp_path))
    with pytest.raises(places.AbsentError):
        backups._reachable(wanted(to), to, None, NOW)
    assert backups._reachable(replace(wanted(to), trial=True), to, None, NOW)


def test_report_says_how_old_each_last_backup_is() -> None:
    plan = Backup(("age1",), (Destination("/a"), Destination("/b"), Destination(stick=True)), DAY)
    known = {"/a": last(dt.timedelta(hours=2)), "/b": last(dt.timedelta(days=3))}
    site = replace(state().site, backup=plan)
    assert backups.ages(site, known, NOW) == [
        "/a: the last good backup is 2 hours old",
        "/b: the last good backup is 3 days old; one is due after 24 hours",
        "stick: no backup yet",
    ]
    assert backups.ages(state().site, {}, NOW) == []


def opened(*, joined: str = "", found: Opened | None = OPENED) -> State:
    return replace(state(planes=2, joined=joined), opened=found)


def test_etcd_is_restored_once_and_before_any_api_server() -> None:
    assert from_backup.etcd(opened(found=None)) == []
    assert from_backup.etcd(opened(found=replace(OPENED, pending=False))) == []
    (action,) = from_backup.etcd(opened())
    assert isinstance(action, RestoreBackup)
    assert phases.etcd(opened())[-1] == action
    with pytest.raises(RefusedError, match="the site lives: p1"):
        from_backup.etcd(opened(joined="p1"))


def test_backup_that_was_not_opened_completely_is_refused() -> None:
    """Without its trust tree the phases would make new authorities."""
    with pytest.raises(RefusedError, match="not opened completely"):
        from_backup.etcd(opened(found=replace(OPENED, placed=False)))


def released(actions: object) -> list[str]:
    assert isinstance(actions, list | tuple)
    return [node.name for one in actions if isinstance(one, ReleaseNames) for node in one.nodes]


def test_names_of_lost_primers_are_released_before_they_join() -> None:
    done = replace(OPENED, pending=False)
    seen = opened(joined="p1", found=done)
    assert released(phases.control_plane(seen)) == ["p2"]
    assert released(phases.nodes(seen)) == ["p3"]
    assert released(phases.control_plane(opened(joined="p1 p2 p3", found=done))) == []
    assert released(phases.control_plane(opened(joined="p1", found=None))) == []
    actions = phases.control_plane(seen)
    kinds = [type(one).__name__ for one in actions]
    assert kinds.index("ReleaseNames") < len(kinds) - 1


def test_opened_backup_is_forgotten_last() -> None:
    assert isinstance(phases.verify(opened())[-1], ForgetBackup)
    assert not any(isinstance(one, ForgetBackup) for one in phases.verify(opened(found=None)))


class Etcd:
    """A host whose etcdctl says how many keys there are."""

    def __init__(self, keys: int) -> None:
        self._keys = keys

    def run(self, argv: list[str]) -> run.Result:
        assert "--limit" in argv
        said = json.dumps({"header": {}, **({"count": self._keys} if self._keys else {})})
        return run.Result(tuple(argv), 0, said, "", 0)


def require_safe(action: RestoreBackup, states: dict[str, MemberState], keys: int = 0) -> None:
    action._require_safe(Etcd(keys), states)  # type: ignore[arg-type]


def test_etcd_with_data_is_not_overwritten() -> None:
    with pytest.raises(RefusedError, match="etcd has 7 keys"):
        require_safe(RestoreBackup("", 9, older=True), {"p1": MemberState(5)}, keys=7)


def test_newer_snapshot_on_a_primer_is_not_lost_without_an_explicit_word() -> None:
    snapshot = Snapshot(NOW, 10, 1, "", "", "", "")
    states = {"p1": MemberState(1), "p2": MemberState(1, snapshots=(snapshot,))}
    with pytest.raises(RefusedError, match="p2 has a snapshot of revision 10, newer"):
        require_safe(RestoreBackup("", 9, older=False), states)
    require_safe(RestoreBackup("", 9, older=True), states)
    require_safe(RestoreBackup("", 10, older=False), states)


def test_restore_that_only_was_not_noted_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_backup, "RECORD", tmp_path / "restore")
    action = RestoreBackup("", 9, older=False)
    states = {"p1": MemberState(20, last="abc"), "p2": MemberState(20, last="abc")}
    assert not action._is_done(states)
    (tmp_path / "restore").write_text("abc")
    assert action._is_done(states)
    assert not action._is_done({**states, "p3": MemberState(20)})
