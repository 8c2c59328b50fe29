"""The role storage on a Primer: a healthy mirror with its datasets, or folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

DATASETS = {
    "keystone/etcd": "/var/lib/etcd",
    "keystone/containerd": "/var/lib/containerd",
    "keystone/store": "/var/lib/keystone/store",
    "keystone/volumes": "/var/lib/keystone/volumes",
}


def test_each_kind_of_load_has_a_folder(host: Host) -> None:
    there = [host.file(path) for path in DATASETS.values()]
    seen = {(f.is_directory, f.user, f.mode) for f in there}
    assert seen == {(True, "root", 0o755)}


def test_folders_are_datasets_if_the_site_has_a_pool(
    host: Host, role_variables: dict[str, Any]
) -> None:
    mounted = {
        path: host.mount_point(path).device
        for path in DATASETS.values()
        if host.mount_point(path).exists and host.mount_point(path).filesystem == "zfs"
    }
    wanted = {path: name for name, path in DATASETS.items()}
    assert mounted == (wanted if role_variables["storage_on_pool"] else {})


def test_pool_matches_the_site_file(host: Host, role_variables: dict[str, Any]) -> None:
    if role_variables["storage_on_pool"]:
        check_mirror_of_two_disks_by_id(host)
        check_import_at_boot(host)
    else:
        assert host.run("zpool list").rc != 0


def check_mirror_of_two_disks_by_id(host: Host) -> None:
    status = json.loads(host.check_output("zpool status -j keystone"))["pools"]["keystone"]
    (root,) = status["vdevs"].values()
    (mirror,) = root["vdevs"].values()
    assert status["state"] == mirror["state"] == "ONLINE"
    assert len(mirror["vdevs"]) == 2
    paths = host.check_output("zpool status -P keystone")
    assert paths.count("/dev/disk/by-id/nvme-") == 2
    assert host.check_output("zpool get -H -o value ashift keystone") == "12"
    assert host.check_output("zfs get -H -o value canmount keystone") == "off"


def check_import_at_boot(host: Host) -> None:
    assert host.service("zfs-import-cache.service").is_enabled
    assert host.service("zfs-mount.service").is_enabled
