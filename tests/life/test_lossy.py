"""The load and its check against a real etcd that loses writes: they notice."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.life import load

from keystone.lab.mirror import upstream
from keystone.run import run, spawned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.life.history import Verdict

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Member:
    """One member on loopback, with plain connections; each start continues with its data."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        peers = f"http://127.0.0.1:{self.port + 1}"
        argv: list[str | Path] = [
            program("etcd"), "--name", "one", "--data-dir", self.folder / "data",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"one={peers}",
        ]  # fmt: skip
        with spawned(argv, log_file=self.folder / "etcd.log") as process:
            until(lambda: self.ctl("endpoint", "health") == 0)
            yield
            process.kill()
            process.wait()

    def ctl(self, *words: str | Path) -> int:
        argv = [program("etcdctl"), "--endpoints", self.url, *words]
        return run(argv, check=False, timeout=60).returncode

    def restore(self, snapshot: Path, *flags: str) -> None:
        """Give the member the data of a snapshot in the place of its own."""
        shutil.rmtree(self.folder / "data")
        peers = f"http://127.0.0.1:{self.port + 1}"
        run([
            program("etcdutl"), "snapshot", "restore", snapshot, "--name", "one",
            "--data-dir", self.folder / "data", "--initial-cluster", f"one={peers}",
            "--initial-advertise-peer-urls", peers, *flags,
        ])  # fmt: skip


def program(name: str) -> Path:
    folder = os.environ.get("KEYSTONE_TEST_BINARIES")
    return Path(folder) / name if folder else upstream.binary(name)


def until(question: object, seconds: float = 60) -> None:
    assert callable(question)
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def member(tmp_path: Path, port_pair: int) -> Member:
    return Member(tmp_path, port_pair)


def after(member: Member, *flags: str) -> Verdict:
    """Return the verdict on a load whose member goes back to a snapshot, with writes after it."""
    snapshot = member.folder / "snapshot.db"
    words = ["etcd", "--endpoints", member.url, "--every", "10ms"]
    with load.running(member.folder, words) as running:
        with member.running():
            until(lambda: running.writes() > 50)
            assert member.ctl("snapshot", "save", snapshot) == 0
            kept = running.writes()
            until(lambda: running.writes() > kept + 50)
        before = running.writes()
        member.restore(snapshot, *flags)
        with member.running():
            until(lambda: running.writes() > before + 50)
            verdict = running.end()
    return verdict


def test_member_that_only_restarts_loses_nothing(member: Member) -> None:
    words = ["etcd", "--endpoints", member.url, "--every", "10ms"]
    with load.running(member.folder, words) as running:
        with member.running():
            until(lambda: running.writes() > 50)
        before = running.writes()
        with member.running():
            until(lambda: running.writes() > before + 50)
            verdict = running.end()
    assert (verdict.lost, verdict.wrong, verdict.compactions) == ((), (), 0)


def test_member_that_goes_back_in_time_is_found_out(member: Member) -> None:
    verdict = after(member)
    assert len(verdict.lost) >= 40
    assert any("was acknowledged at revision" in sentence for sentence in verdict.wrong)


def test_restored_snapshot_with_growing_revisions_loses_only_what_came_after(
    member: Member,
) -> None:
    """As Keystone restores: the watch is told that it has to read all anew."""
    verdict = after(member, "--bump-revision", "1000000", "--mark-compacted")
    assert len(verdict.lost) >= 40
    assert (verdict.wrong, verdict.compactions) == ((), 1)
    assert 0 < verdict.lost_seconds < 60
