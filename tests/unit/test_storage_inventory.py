"""What the roles seed, time and storage are told."""

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


def test_a_primer_is_a_peer_and_serves_the_nodes() -> None:
    told = time.variables(context(PRIMERS[0]))
    assert told["time_peers"] == ["10.77.0.12", "10.77.0.13"]
    assert told["time_servers"] == []
    assert told["time_allow"] == ["10.77.0.0/24"]
    assert told["time_sources"] == ["192.0.2.1"]
    assert told["time_orphan"] is True


def test_a_worker_follows_all_primers_and_nothing_else() -> None:
    told = time.variables(context(WORKER))
    assert told["time_servers"] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert (told["time_peers"], told["time_sources"], told["time_allow"]) == ([], [], [])
    assert told["time_orphan"] is False


def test_the_seed_holds_the_module_package_and_no_compiler() -> None:
    told = seed.variables(context(PRIMERS[0]))
    assert MODULES.name in told["seed_packages"]
    assert not [name for name in told["seed_packages"] if "dkms" in name]
    assert told["seed_arc_max"] == 0
    assert seed.variables(context(PRIMERS[0], "emulated"))["seed_arc_max"] == 256 << 20


def test_the_storage_role_gets_the_hosts_own_disks() -> None:
    spec = storage.variables(context(PRIMERS[1]))["storage_spec"]
    assert spec["serials"] == ["KEY2A", "KEY2B"]
    assert [d["mountpoint"] for d in spec["datasets"]] == [
        "/var/lib/etcd", "/var/lib/containerd", "/var/lib/keystone/store",
        "/var/lib/keystone/volumes",
    ]  # fmt: skip


def test_without_a_pool_the_seed_is_the_clock_and_datasets_are_folders() -> None:
    there = context(PRIMERS[1])
    bare = replace(PRIMERS[1], disks=())
    site = replace(there.site, storage=Storage(layout="directory"), trial=True)
    here = replace(there, site=site, host=bare)
    assert seed.variables(here)["seed_packages"] == ["chrony"]
    assert (seed.variables(here)["seed_zfs"], seed.variables(there)["seed_zfs"]) == (False, True)
    told = storage.variables(here)
    assert told["storage_on_pool"] is False
    assert [folder["path"] for folder in told["storage_folders"]] == list(probe.FOLDERS)
    assert storage.variables(there)["storage_folders"] == []


def test_only_a_trial_site_leaves_the_clock_alone() -> None:
    there = context(WORKER)
    assert time.variables(there)["time_sets_clock"] is True
    trial = replace(there, site=replace(there.site, trial=True))
    assert time.variables(trial)["time_sets_clock"] is False
