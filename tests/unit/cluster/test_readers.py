"""cluster.readers and cluster.kubeconfigs: which programs have not read today's files."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.cluster import kubeadm_leaves, kubeconfigs, pods, readers
from keystone.errors import RefusedError
from keystone.pki.rotation import NAMES

if TYPE_CHECKING:
    from pathlib import Path

LIFE = dt.timedelta(days=90)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with etcd and haproxy, whose files are below a folder."""
    found = tuple(
        replace(reader, sign=f"{tmp_path}{reader.sign}",
                files=tuple(f"{tmp_path}{file}" for file in reader.files))
        for reader in readers.READERS
    )  # fmt: skip
    monkeypatch.setattr(readers, "READERS", found)
    monkeypatch.setattr(readers, "RECORD", tmp_path / "read.json")
    monkeypatch.setattr(kubeadm_leaves, "DONE", tmp_path / "done")
    for reader in found:
        if reader.name in ("etcd", "haproxy"):
            for file in (reader.sign, *reader.files):
                path = tmp_path / file.removeprefix(f"{tmp_path}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("one")
    return tmp_path


def test_program_without_a_record_has_to_restart(here: Path) -> None:
    assert readers.behind("etcd-peer", LIFE, {}) == ("etcd",)
    assert readers.behind("site", LIFE, {}) == ()
    assert not (here / "read.json").exists()


def test_program_restarts_once_for_each_change(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[str] = []
    monkeypatch.setattr(readers, "_restart_etcd", lambda _: restarts.append("etcd"))
    for text in ("one", "two"):
        (here / "etc/etcd/pki/peer-ca.crt").write_text(text)
        for _ in range(2):
            readers.catch_up("etcd-peer", LIFE, {}, 60)
    assert restarts == ["etcd", "etcd"]
    assert readers.behind("etcd-client", LIFE, {}) == ()


def test_restart_that_was_cut_is_done_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(readers, "_restart_etcd", cut)
    with pytest.raises(KeyboardInterrupt):
        readers.catch_up("etcd-peer", LIFE, {}, 60)
    assert readers.behind("etcd-peer", LIFE, {}) == ("etcd",)
    assert here.exists()


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_damaged_record_lets_every_program_restart(here: Path, text: str) -> None:
    (here / "read.json").write_text(text)
    assert readers.behind("kubernetes", LIFE, {}) == ("haproxy",)


def test_every_ca_but_that_of_the_site_has_readers() -> None:
    """The role trust restarts the programs that read the site's certificates."""
    read = set().union(*(reader.of for reader in readers.READERS))
    assert set(NAMES) - read == {"site"}


def kubeconfig(authority: str) -> str:
    data = base64.b64encode(authority.encode()).decode()
    return yaml.safe_dump({
        "clusters": [{"name": "a", "cluster": {"server": "x", "certificate-authority-data": data}}],
        "users": [{"name": "u", "user": {"client-key-data": "secret"}}],
    })  # fmt: skip


def test_kubeconfig_gets_both_cas_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "admin.conf"
    file.write_text(kubeconfig("old\n"))
    assert kubeconfigs.trust(file, "old\nnew\n")
    assert not kubeconfigs.trust(file, "old\nnew\n")
    document = yaml.safe_load(file.read_text())
    assert document["users"][0]["user"] == {"client-key-data": "secret"}
    cluster = document["clusters"][0]["cluster"]
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"old\nnew\n"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[", "clusters: 1", "clusters: [{name: a}]"])
def test_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "admin.conf"
    file.write_text(text)
    with pytest.raises(RefusedError, match="not a kubeconfig"):
        kubeconfigs.trust(file, "new")


@pytest.mark.parametrize(
    ("kind", "status", "rolled"),
    [("Deployment", {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2}, True),
     ("Deployment", {"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 2}, False),
     ("Deployment", {"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 2}, False),
     ("DaemonSet", {"observedGeneration": 2, "desiredNumberScheduled": 3,
                    "updatedNumberScheduled": 3, "numberAvailable": 3}, True),
     ("DaemonSet", {"observedGeneration": 2, "desiredNumberScheduled": 3,
                    "updatedNumberScheduled": 3, "numberAvailable": 2}, False)],
)  # fmt: skip
def test_workload_is_rolled_when_all_its_pods_are_new(
    kind: str, status: dict[str, int], rolled: bool
) -> None:
    item = json.loads(json.dumps({
        "kind": kind, "status": status,
        "metadata": {"namespace": "n", "name": "x", "generation": 2},
        "spec": {"replicas": 2,
                 "template": {"metadata": {"annotations": {pods.ANNOTATION: "abc"}}}},
    }))  # fmt: skip
    load = pods.parse(item)
    assert (load.digest, load.rolled) == ("abc", rolled)
