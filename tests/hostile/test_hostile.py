"""The hostile corpus: nothing is accepted, nothing is written outside, no traceback, in budget.

pytestmark = pytest.mark.slow

KEYSTONE_HOSTILE: how many variants (`make check` 150, `make test` 3,000, `make fuzz` 20,000).
"""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 it needs namespaces of its own
import sys
from pathlib import Path
from typing import Any

import pytest

COUNT = int(os.environ.get("KEYSTONE_HOSTILE", "150"))
SPACES = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]
DRIVER = Path(__file__).parent / "driver.py"


def drive(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*SPACES, sys.executable, DRIVER, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.timeout(3 * 3600)
def test_hostile_bundles_are_refused() -> None:
    report = drive("--count", str(COUNT))
    assert report["wrong"] == []
    assert len(report["classes"]) == 30
    folder = os.environ.get("KEYSTONE_HOSTILE_REPORT")
    if folder:
        Path(folder).write_text(json.dumps(report, indent=1))


def test_honest_bundles_are_accepted() -> None:
    """Without this a reader that refuses everything would pass."""
    assert drive("--honest", "--count", "20")["wrong"] == []


@pytest.mark.timeout(3600)
def test_commands_refuse_hostile_bundles() -> None:
    count = max(15, COUNT // 100)
    report = drive("--first", "100000", "--count", str(count), "--reader", "verify process",
                   "--reader", "ingest process")  # fmt: skip
    assert report["wrong"] == []
    report = drive("--honest", "--count", "1", "--reader", "verify process")
    assert report["wrong"] == []
