"""Variables of the roles seed, time and storage."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from keystone.ansible.roles import seed, storage, time
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster.context import Context
from keystone.hosts import probe
from keystone.site.model import Disk, Networks, Node, Patience, Site, Storage

PRIMERS = tuple(
    Node(f"p{n}", IPv4Address(f"10.77.0.1{n}"), (Disk(f"KEY{n}A"), Disk(f"KEY{n}B")))
    for n in (1, 2, 3)
)
WORKER = Node("w1", IPv4Address("10.77.0.21"))
MODULES = Item("deb", "zfs-modules-6.12.57+deb13-amd64", "2.3.9", Digest("0" * 64), 1)


def context(host: Node, patience: str = "normal") -> Context:
    networks = Networks(IPv4Network("10.77.0.0/24"))
    site = Site("lab", PRIMERS, networks, patience=Patience(patience), time_sources=("192.0.2.1",))
    return Context(site, host, Manifest("lab", 1, (MODULES,)))


def test_primer_is_time_peer_and_serves_the_nodes() -> None:
    variables = time.variables(context(PRIMERS[0]))
    assert variables["time_peers"] == ["10.77.0.12", "10.77.0.13"]
    assert variables["time_servers"] == []
    assert variables["time_allow"] == ["10.77.0.0/24"]
    assert variables["time_sources"] == ["192.0.2.1"]
    assert variables["time_orphan"] is True


def test_worker_uses_only_primers_as_time_servers() -> None:
    variables = time.variables(context(WORKER))
    assert variables["time_servers"] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert (variables["time_peers"], variables["time_sources"], variables["time_allow"]) == (
        [],
        [],
        [],
    )
    assert variables["time_orphan"] is False


def test_seed_has_module_package_and_no_compiler() -> None:
    variables = seed.variables(context(PRIMERS[0]))
    assert MODULES.name in variables["seed_packages"]
    assert not [name for name in variables["seed_packages"] if "dkms" in name]
    assert variables["seed_arc_max"] == 0
    assert seed.variables(context(PRIMERS[0], "emulated"))["seed_arc_max"] == 256 << 20


def test_storage_spec_has_disks_of_this_host() -> None:
    spec = storage.variables(context(PRIMERS[1]))["storage_spec"]
    assert spec["serials"] == ["KEY2A", "KEY2B"]
    assert [d["mountpoint"] for d in spec["datasets"]] == [
        "/var/lib/etcd", "/var/lib/containerd", "/var/lib/keystone/store",
        "/var/lib/keystone/snapshots",
        "/var/lib/keystone/volumes",
    ]  # fmt: skip


def test_layout_directory_seeds_only_chrony_and_uses_folders() -> None:
    on_pool = context(PRIMERS[1])
    bare = replace(PRIMERS[1], disks=())
    site = replace(on_pool.site, storage=Storage(layout="directory"), trial=True)
    in_folders = replace(on_pool, site=site, host=bare)
    assert seed.variables(in_folders)["seed_packages"] == ["chrony"]
    assert seed.variables(in_folders)["seed_zfs"] is False
    assert seed.variables(on_pool)["seed_zfs"] is True
    variables = storage.variables(in_folders)
    assert variables["storage_on_pool"] is False
    assert [folder["path"] for folder in variables["storage_folders"]] == list(probe.FOLDERS)
    assert storage.variables(on_pool)["storage_folders"] == []


def test_only_trial_site_does_not_set_the_clock() -> None:
    ordinary = context(WORKER)
    assert time.variables(ordinary)["time_sets_clock"] is True
    trial = replace(ordinary, site=replace(ordinary.site, trial=True))
    assert time.variables(trial)["time_sets_clock"] is False
