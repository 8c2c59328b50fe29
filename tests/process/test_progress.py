"""Progress bars count every byte once and end at 100 %, for each command."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.model import Digest, Item
from keystone.packager import lock
from keystone.packager.keys import keys

if TYPE_CHECKING:
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
SHARED = b"the same bytes under two names" * 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lock of four files, two of which are the same blob."""
    folder = tmp_path_factory.mktemp("made")
    items, blobs = [], {}
    for number, data in enumerate((SHARED, SHARED, os.urandom(1_500_000), b"small")):
        digest = Digest(hashlib.sha256(data).hexdigest())
        (folder / digest.hex).write_bytes(data)
        items.append(Item("file", f"file{number}", "1", digest, len(data)))
        blobs[digest] = lock.LockedBlob(digest, len(data), f"local:{digest.hex}")
    made = lock.Lock("p", 1, CREATED, 700, ("amd64",), tuple(items), tuple(blobs.values()))
    (folder / "p.lock.json").write_bytes(lock.dump(made))
    (folder / "pin").write_text(keys.init(folder / "keys", None, CREATED))
    return folder


def progress(folder: Path, *words: str) -> list[dict[str, object]]:
    """Run a command; return the log lines of its progress bar in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "keystone", "--log-format", "json", *words], cwd=folder, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    return [line for line in lines if "done" in line and "publish" not in line["message"]]


def listed(folder: Path) -> int:
    """Return the bytes of all targets in the signed list; each name is a separate blob."""
    files = [path for path in (folder / "store").rglob("*") if path.is_file()]
    targets = json.loads((folder / "store/metadata/targets.json").read_bytes())["signed"]["targets"]
    assert files
    return sum(entry["length"] for entry in targets.values())


def test_progress_of_create_ingest_and_verify_ends_at_total_size(folder: Path) -> None:
    create = ("bundle", "create", "p.lock.json", "--keys", "keys", "-o", "p.tar")
    pin = ("--root-fingerprint", (folder / "pin").read_text())
    lines = progress(folder, *create)
    size = (folder / "p.tar").stat().st_size
    assert lines[-1]["message"].endswith(" 100 %")  # type: ignore[attr-defined] JSON
    assert lines[-1]["done"] == size
    # Continue with half of the file: its bytes count once.
    with (folder / "p.tar").open("rb") as file:
        (folder / "p.tar.part").write_bytes(file.read(size // 2))
    (folder / "p.tar").unlink()
    lines = progress(folder, *create)
    assert lines[-1]["done"] == size

    ingest = ("store", "ingest", "p.tar", *pin, "--store", "store", "--trust", "trust")
    lines = progress(folder, *ingest)
    total = listed(folder)
    assert len(SHARED) < total < 2 * len(SHARED), "the shared blob is one"
    assert [line["done"] for line in lines][-1] == total
    assert lines[-1]["message"].endswith(" 100 %")  # type: ignore[attr-defined] JSON

    lines = progress(folder, "bundle", "verify", "p.tar", *pin)
    contents = (folder / "store/metadata/keystone.json").stat().st_size
    assert lines[-1]["done"] == total - contents
    assert lines[-1]["message"].endswith(" 100 %")  # type: ignore[attr-defined] JSON
