"""The steps of a restore on one host, with the real etcdutl: repeated and interrupted."""

from __future__ import annotations

import hashlib
import io
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keystone import run
from keystone.cluster import etcdctl, member, snapshot_files
from keystone.cluster.recovery import Order
from keystone.errors import DamagedBundleError, RefusedError
from keystone.lab.mirror import upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PEERS = {"p1": "http://127.0.0.1:2380"}


class Primer:
    """A host's folders, and the programs that the steps start; etcdutl is real."""

    def __init__(self, folder: Path, snapshot: bytes) -> None:
        self.etcd, self.snapshot = folder / "etcd", snapshot
        self.order = Order("first", hashlib.sha256(snapshot).hexdigest(), PEERS, 10**9)
        self.started: list[str] = []
        self.kubelet = True
        (self.etcd / "data").mkdir(parents=True)
        (self.etcd / "data" / "old").write_text("the data from before")

    def stage(self, order: Order | None = None) -> None:
        member.stage("p1", order or self.order, io.BytesIO(self.snapshot))

    @property
    def restored(self) -> bool:
        return (self.etcd / "data" / "member" / "snap" / "db").exists()

    @property
    def aside(self) -> list[str]:
        return sorted(path.name for path in self.etcd.glob("data.before-*"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot of a real etcd with one key."""
    folder = tmp_path_factory.mktemp("etcd")
    ends = ["--listen-client-urls", "unix://localhost:1", "--advertise-client-urls",
            "unix://localhost:1", "--listen-peer-urls", "unix://localhost:2",
            "--initial-advertise-peer-urls", "unix://localhost:2",
            "--initial-cluster", "default=unix://localhost:2"]  # fmt: skip
    client = [upstream.binary("etcdctl"), "--endpoints", "unix://localhost:1"]
    with run.spawned([upstream.binary("etcd"), "--data-dir", folder / "d", *ends], cwd=folder):
        for _ in range(600):
            if run.run([*client, "put", "a", "b"], cwd=folder, check=False).returncode == 0:
                break
        run.run([*client, "snapshot", "save", "s.db"], cwd=folder)
    return (folder / "s.db").read_bytes()


@pytest.fixture
def primer(tmp_path: Path, snapshot: bytes, monkeypatch: pytest.MonkeyPatch) -> Primer:
    made = Primer(tmp_path, snapshot)
    utility = upstream.binary("etcd").with_name("etcdutl")
    monkeypatch.setattr(etcdctl, "UTILITY", str(utility))
    for name, path in {
        "ETCD": made.etcd, "DATA": made.etcd / "data", "RESTORE": made.etcd / "restore",
        "FINISHED": made.etcd / "restored", "LIVE": tmp_path / "live.db",
    }.items():  # fmt: skip
        monkeypatch.setattr(member, name, path)

    def start(words: Sequence[str], **_: object) -> run.Result:
        made.started.append(" ".join(words))
        has_kubelet = made.kubelet or words != ["systemctl", "cat", "kubelet"]
        return run.Result(tuple(words), 0 if has_kubelet else 1, "", "", 0)

    monkeypatch.setattr(member, "run", start)
    monkeypatch.setattr(member, "_give_to_etcd", lambda _folder: None)
    return made


def test_steps_put_the_restored_data_in_place_and_keep_the_old(primer: Primer) -> None:
    primer.stage()
    assert not primer.restored
    assert primer.started == []
    member.swap("first")
    assert primer.restored
    assert (primer.etcd / "data.before-first" / "old").read_text() == "the data from before"
    member.finish("first")
    assert primer.started[0] == "systemctl stop etcd"
    assert primer.started[-1] == "systemctl try-restart kubelet"
    assert not (primer.etcd / "restore").exists()


def test_host_without_kubelet_is_finished_too(primer: Primer) -> None:
    """A site that comes back from a backup has etcd before it has nodes."""
    primer.kubelet = False
    all_steps(primer, "first")
    assert primer.started[-1] == "systemctl cat kubelet"
    assert not (primer.etcd / "restore").exists()


def test_each_step_may_be_repeated(primer: Primer) -> None:
    for step in (primer.stage, lambda: member.swap("first"), lambda: member.finish("first")):
        step()
        step()
    assert primer.restored
    assert primer.aside == ["data.before-first"]


def test_finished_restore_is_not_done_again(primer: Primer) -> None:
    """Another host had not finished when the command was interrupted."""
    all_steps(primer, "first")
    (primer.etcd / "data" / "newer").write_text("written since")
    all_steps(primer, "first")
    assert (primer.etcd / "data" / "newer").exists()
    assert primer.aside == ["data.before-first"]


def test_same_snapshot_may_be_restored_once_more(primer: Primer) -> None:
    all_steps(primer, "first")
    primer.order = replace(primer.order, id="second")
    all_steps(primer, "second")
    assert primer.aside == ["data.before-first", "data.before-second"]


def test_swap_interrupted_between_its_renames_is_completed(primer: Primer) -> None:
    primer.stage()
    (primer.etcd / "data").rename(primer.etcd / "data.before-first")
    member.swap("first")
    assert primer.restored
    assert primer.aside == ["data.before-first"]


def test_stage_interrupted_before_its_end_is_done_again(primer: Primer) -> None:
    primer.stage()
    (primer.etcd / "restore" / "order.json").unlink()
    shutil.rmtree(primer.etcd / "restore" / "data" / "member")
    primer.stage(replace(primer.order, id="second"))
    member.swap("second")
    assert primer.restored


def test_another_restore_is_refused_until_the_first_is_finished(primer: Primer) -> None:
    primer.stage()
    with pytest.raises(RefusedError, match="restore first is not finished here"):
        primer.stage(replace(primer.order, id="second"))
    with pytest.raises(RefusedError, match="restore second was not prepared"):
        member.swap("second")


def test_other_bytes_than_ordered_are_refused_and_change_nothing(primer: Primer) -> None:
    with pytest.raises(DamagedBundleError, match="not the snapshot that was sent"):
        primer.stage(replace(primer.order, sha256="0" * 64))
    assert member._order() is None
    assert (primer.etcd / "data" / "old").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-4096], lambda _data: b"", lambda data: data[:-1],
     lambda data: data[:9000] + b"x" + data[9001:], lambda data: data + b"x"],
    ids=["truncated by a page", "empty", "truncated", "one byte changed", "longer"],
)  # fmt: skip
def test_damaged_snapshot_is_found(
    tmp_path: Path, snapshot: bytes, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "s.db"
    file.write_bytes(damage(snapshot))
    with pytest.raises(DamagedBundleError, match=r"s\.db"):
        snapshot_files.check(file)


def all_steps(primer: Primer, identity: str) -> None:
    primer.stage()
    member.swap(identity)
    member.finish(identity)
