"""The part of a site file about sealed backups."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

from keystone.site import model as site

FILE = Path(__file__).parents[2] / "cases" / "site" / "backup-good.yaml"


def test_paths_are_absolute_and_defaults_are_set() -> None:
    plan = site.load(FILE).backup
    assert plan is not None
    assert (plan.every, plan.keep) == (dt.timedelta(hours=6), 14)
    folder, stick, store = plan.to
    assert folder.path == str((FILE.parent / "backups").absolute())
    assert (stick.stick, str(stick)) == (True, "stick")
    assert store.s3 is not None
    assert str(store) == "https://store.site.example:9000/backups/north/"
    assert store.s3.credentials_file == str((FILE.parent / "s3").absolute())


def test_installed_file_means_the_same_elsewhere(tmp_path: Path) -> None:
    installed = tmp_path / "site.yaml"
    installed.write_text(site.installed_text(site.read(FILE)))
    assert site.load(installed).backup == site.load(FILE).backup
    assert json.loads(installed.read_text())["spec"]["backup"]["to"][1] == {"stick": True}
