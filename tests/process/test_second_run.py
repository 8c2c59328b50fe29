"""The same command on a site that is as it should be: what it reads, what it asks, what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .second_run import Packager, Settled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the main job is root's")

UNREAD = "content not read again"


@pytest.fixture(scope="module")
def packager(tmp_path_factory: pytest.TempPathFactory) -> Packager:
    return Packager(tmp_path_factory.mktemp("packager"))


@pytest.fixture
def settled(tmp_path: Path, packager: Packager) -> Settled:
    return Settled(tmp_path, packager)


def spoil(settled: Settled) -> None:
    """Change a blob on the medium, in its full length."""
    data = settled.medium.read_bytes()
    settled.medium = settled.folder / "spoilt.tar"
    settled.medium.write_bytes(data.replace(b"the bytes of etcd", b"the 8ytes of etcd"))
    assert settled.medium.read_bytes() != data


def test_it_changes_nothing_and_looks_once_at_each_host(settled: Settled) -> None:
    spoil(settled)
    done = settled.run()
    said = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in said) == (0, True), said
    assert UNREAD in said
    assert settled.asked == ["etcdctl", "etcdctl", "kubectl", "python3 p1", "ssh p2", "ssh p3"]


def test_a_primer_without_the_bundle_has_the_file_read_before_the_plan(settled: Settled) -> None:
    settled.answer("p2", store={"bundle": None, "complete": False})
    done = settled.run("--plan")
    said = done.stdout + done.stderr
    assert (done.returncode, "p2: bring the bundle into" in said) == (0, True), said
    assert "which not every Primer has" in said
    spoil(settled)
    done = settled.run("--yes")
    assert (done.returncode, "binary etcd" in done.stderr) == (5, True), done.stderr
    assert "p2: bring the bundle into" not in done.stdout + done.stderr


def test_each_run_says_where_the_offline_roots_key_still_lies(settled: Settled) -> None:
    file, words = settled.folder / "root.key", settled.folder / "pass"
    for more in ((), ("--plan",)):
        said = " ".join(settled.run(*more).stderr.split())
        assert f"{file}: the offline root's key lies on this Primer" in said
        assert f"shred -u {file} {words}" in said
    file.unlink()
    done = settled.run()
    assert (done.returncode, "root's key" in done.stderr) == (0, False), done.stderr
