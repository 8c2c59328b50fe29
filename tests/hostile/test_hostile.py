"""Run the hostile corpus: readers refuse everything, write nothing outside, and keep the budgets.

KEYSTONE_HOSTILE: number of bundles (default 150, `make test` 1,000, `make fuzz` 20,000), and a
fifth as many deltas, have-lists and parts. KEYSTONE_HOSTILE_REPORT: a folder for the reports, from
which table.py makes the table in docs/reference/hostile-bundles.md. KEYSTONE_HOSTILE_PEERS: give
all bundles to GNU tar and Python's tarfile too, instead of two of each class.
"""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 the driver runs in separate namespaces
import sys
from pathlib import Path
from typing import Any

import pytest

COUNT = int(os.environ.get("KEYSTONE_HOSTILE", "150"))
SPACES = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]
FAMILIES = {"bundle": 30, "delta": 16, "have": 7, "parts": 13}
"""Number of classes of each family."""
COMMANDS = {
    "bundle": ("verify", "ingest"), "delta": ("verify", "ingest"), "have": ("have",),
    "parts": ("parts",),
}  # fmt: skip
DRIVER = Path(__file__).parent / "driver.py"


def drive(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*SPACES, sys.executable, DRIVER, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def keep(name: str, report: dict[str, Any]) -> None:
    folder = os.environ.get("KEYSTONE_HOSTILE_REPORT")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps(report, indent=1))


@pytest.mark.timeout(12 * 3600)
@pytest.mark.parametrize(("family", "classes"), FAMILIES.items())
def test_hostile_input_is_refused(family: str, classes: int) -> None:
    count = COUNT if family == "bundle" else max(COUNT // 5, 2 * classes)
    report = drive("--family", family, "--count", str(count))
    assert report["wrong"] == []
    assert len(report["classes"]) == classes
    keep(family, report)


@pytest.mark.timeout(12 * 3600)
def test_tar_readers_with_hostile_bundles() -> None:
    """Only collects figures for the table; other readers need not refuse anything."""
    count = COUNT if os.environ.get("KEYSTONE_HOSTILE_PEERS") else 2 * FAMILIES["bundle"]
    report = drive("--count", str(count), "--reader", "tar", "--reader", "tarfile")
    assert len(report["classes"]) == FAMILIES["bundle"]
    keep("peers", report)


@pytest.mark.parametrize("family", FAMILIES)
def test_valid_input_is_accepted(family: str) -> None:
    """Otherwise a reader that refuses everything would pass the other tests."""
    assert drive("--family", family, "--valid", "--count", "20")["wrong"] == []


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(("family", "readers"), COMMANDS.items())
def test_commands_refuse_hostile_input(family: str, readers: tuple[str, ...]) -> None:
    count = max(15, COUNT // 100)
    words = [word for reader in readers for word in ("--reader", f"{reader} process")]
    report = drive("--family", family, "--first", "100000", "--count", str(count), *words)
    assert report["wrong"] == []


@pytest.mark.parametrize("family", ["bundle", "delta", "parts"])
def test_commands_accept_valid_input(family: str) -> None:
    reader = COMMANDS[family][0]
    words = ("--family", family, "--valid", "--count", "1", "--reader", f"{reader} process")
    assert drive(*words)["wrong"] == []
