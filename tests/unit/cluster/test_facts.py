"""Facts from the output of the probe: of captures, and of this machine."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from keystone.cluster import facts as cluster_facts
from keystone.errors import HostError
from keystone.hosts import observe, probe
from keystone.hosts.facts import HostFacts, PoolLabel, RoleFacts, StoreFacts, VdevFacts
from keystone.run import Host

CASES = Path(__file__).parents[2] / "cases" / "facts"


def capture(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text())


def parsed(name: str) -> HostFacts:
    seen = capture(name)
    return observe.parse("p1", seen, (seen["clock"] - 3, seen["clock"] - 1))


def test_facts_of_a_blank_host() -> None:
    host = parsed("debian13-blank")
    assert (host.os_id, host.os_version, host.python) == ("debian", "13", (3, 13))
    assert host.clock_offset == pytest.approx(2)
    assert host.clock_error == pytest.approx(1)
    (disk,) = host.disk("KEYP1A")
    assert disk.blank
    assert disk.by_id[0] == "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_KEYP1A"
    assert (disk.size, disk.logical_sector, disk.transport) == (8 << 30, 512, "nvme")
    assert host.pools == ()
    assert host.store == StoreFacts(None, complete=False)


def test_system_disk_is_not_blank() -> None:
    (disk,) = (disk for disk in parsed("debian13-blank").disks if disk.name == "vda")
    assert not disk.blank
    assert disk.partition_table == "gpt"
    assert disk.partitions == ("vda1", "vda2")
    assert disk.mounted == ("/boot/efi", "/")
    assert disk.signatures == ("vda1: vfat", "vda2: ext4")


def test_facts_of_a_converged_host() -> None:
    host = parsed("debian13-converged")
    pool = host.pool("keystone")
    assert pool is not None
    assert (pool.health, pool.ashift, pool.guid) == ("ONLINE", 12, 9923410287341098723)
    assert pool.vdevs == (
        VdevFacts(
            "mirror",
            "ONLINE",
            (
                "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_KEYP1A",
                "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_KEYP1B",
            ),
        ),
    )
    etcd = host.datasets[1]
    assert (etcd.name, etcd.mountpoint, etcd.mounted) == ("keystone/etcd", "/var/lib/etcd", True)
    assert etcd.properties["recordsize"] == "16384"
    label = PoolLabel("keystone", 9923410287341098723, 8323328)
    assert host.disk("KEYP1A")[0].zpool_label == label
    assert host.roles["etcd"].drift == ("/etc/etcd/etcd.yaml: changed", "etcd.service: failed")
    assert host.roles["storage"] == RoleFacts("def")
    assert host.store.complete
    assert host.ports[2379] == "etcd"


def test_probe_of_this_machine() -> None:
    host = observe.probe(Host("here", "127.0.0.1", local=True))
    assert host.hostname
    assert host.memory > 0
    assert abs(host.clock_offset) <= host.clock_error + 1


def test_parse_of_other_output_raises() -> None:
    with pytest.raises(KeyError):
        observe.parse("p1", {}, (0, 0))


def test_probe_error_names_every_failed_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\necho welcome to this machine\n")
    fake.chmod(0o755)
    monkeypatch.setenv("KEYSTONE_PATH", f"{tmp_path}:{os.environ['PATH']}")
    hosts = {name: Host(name, "127.0.0.1", local=True) for name in ("p1", "p2")}
    with pytest.raises(HostError) as caught:
        observe.probe_all(hosts)
    assert "p1: " in caught.value.message
    assert "p2: " in caught.value.message
    assert "welcome" in caught.value.hint


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(probe, "STATE", tmp_path)
    return tmp_path


def mark(state: Path, **files: str) -> None:
    marker = {"inputs": "i", "files": {str(state / k): v for k, v in files.items()}, "units": []}
    (state / "state" / "demo.json").write_text(json.dumps(marker))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_missing_and_changed_files_are_drift(state: Path) -> None:
    (state / "same").write_bytes(b"a")
    (state / "other").write_bytes(b"b")
    mark(state, same=sha(b"a"), other=f"sha256:{sha(b'a')}", gone=sha(b"a"))
    assert probe.roles(deep=False)["demo"] == {
        "inputs": "i",
        "drift": [f"{state}/gone: missing", f"{state}/other: changed"],
    }


def test_large_file_is_hashed_only_if_newer_than_its_marker(state: Path) -> None:
    data = b"x" * (probe.LARGE + 1)
    (state / "large").write_bytes(data)
    mark(state, large=sha(b"content when the role ran"))
    late = (state / "large").stat().st_ctime_ns + 1
    os.utime(state / "state" / "demo.json", ns=(late, late))
    assert probe.roles(deep=False)["demo"]["drift"] == []
    assert probe.roles(deep=True)["demo"]["drift"] == [f"{state}/large: changed"]
    os.utime(state / "state" / "demo.json", ns=(0, 0))
    assert probe.roles(deep=False)["demo"]["drift"] == [f"{state}/large: changed"]


def test_incomplete_marker_is_ignored(state: Path) -> None:
    (state / "state" / "incomplete.json").write_text('{"inputs": "')
    assert probe.roles(deep=False) == {}
    assert probe.store() == {"bundle": None, "complete": False}
    assert probe.intent() is None


def test_facts_of_etcd() -> None:
    members = {
        "members": [
            {"ID": 12345678901234567890, "name": "p1", "clientURLs": ["https://10.77.0.11:2379"]},
            {"ID": 2, "name": "p2", "clientURLs": ["https://10.77.0.12:2379"]},
            {"ID": 3, "peerURLs": ["https://10.77.0.13:2380"], "isLearner": True},
        ]
    }
    health: list[dict[str, Any]] = [
        {"endpoint": "https://10.77.0.11:2379", "health": True, "took": "9ms"},
        {"endpoint": "https://10.77.0.12:2379", "health": False, "error": "deadline"},
    ]
    seen = cluster_facts.parse_etcd(members, health)
    assert seen.healthy == 1
    assert [member.id for member in seen.members] == ["ab54a98ceb1f0ad2", "2", "3"]
    assert cluster_facts.parse_etcd({}, []).healthy == 0


def test_facts_of_the_cluster() -> None:
    seen = cluster_facts.parse_cluster(capture("kubectl-get"))
    assert seen.ready_nodes == ("p1",)
    assert [node.name for node in seen.nodes] == ["p1", "w1"]
    assert seen.unavailable == (
        "kube-system/coredns (0 of 1)",
        "kube-system/rolling (0 of 1)",
    )


def unavailable(*, available: int, ready: int) -> tuple[str, ...]:
    """Return `unavailable` for a DaemonSet that wants a pod on each of four nodes."""
    nodes = [
        {"kind": "Node", "metadata": {"name": f"n{number}"}, "status": {"conditions": [
            {"type": "Ready", "status": "True" if number < ready else "Unknown"}]}}
        for number in range(4)
    ]  # fmt: skip
    daemons = {
        "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel-ds", "namespace": "kube-flannel", "generation": 1},
        "status": {
            "observedGeneration": 1,
            "desiredNumberScheduled": 4,
            "numberAvailable": available,
        },
    }
    return cluster_facts.parse_cluster({"items": [*nodes, daemons]}).unavailable


def test_worker_that_is_off_does_not_make_daemonset_unavailable() -> None:
    assert unavailable(available=3, ready=3) == ()
    assert unavailable(available=2, ready=3) == ("kube-flannel/kube-flannel-ds (2 of 3)",)
    assert unavailable(available=3, ready=4) == ("kube-flannel/kube-flannel-ds (3 of 4)",)
    assert unavailable(available=0, ready=0) == ("kube-flannel/kube-flannel-ds (0 of 1)",)
