"""What the role storage leaves on a Primer: a healthy mirror by stable names, and its datasets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

DATASETS = {
    "keystone/etcd": "/var/lib/etcd",
    "keystone/containerd": "/var/lib/containerd",
    "keystone/store": "/var/lib/keystone/store",
    "keystone/volumes": "/var/lib/keystone/volumes",
}


def test_the_pool_is_online_and_mirrors_two_disks_by_id(host: Host) -> None:
    status = json.loads(host.check_output("zpool status -j keystone"))["pools"]["keystone"]
    (root,) = status["vdevs"].values()
    (mirror,) = root["vdevs"].values()
    assert status["state"] == mirror["state"] == "ONLINE"
    assert len(mirror["vdevs"]) == 2
    paths = host.check_output("zpool status -P keystone")
    assert paths.count("/dev/disk/by-id/nvme-") == 2


def test_ashift_is_12(host: Host) -> None:
    assert host.check_output("zpool get -H -o value ashift keystone") == "12"


@pytest.mark.parametrize(("dataset", "mountpoint"), DATASETS.items())
def test_datasets_are_mounted(host: Host, dataset: str, mountpoint: str) -> None:
    assert host.check_output("zfs get -H -o value mounted %s", dataset) == "yes"
    assert host.mount_point(mountpoint).device == dataset


def test_the_pools_root_is_not_mounted(host: Host) -> None:
    assert host.check_output("zfs get -H -o value canmount keystone") == "off"


def test_the_pool_is_there_after_a_boot(host: Host) -> None:
    assert host.service("zfs-import-cache.service").is_enabled
    assert host.service("zfs-mount.service").is_enabled
