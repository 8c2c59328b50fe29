"""The role seed: the packages that are needed before the store exists; no service runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

ZFS_FILES = (
    "/etc/modprobe.d/keystone-zfs.conf",
    "/etc/systemd/system/zfs-import-scan.service.d/keystone.conf",
)


def test_packages_are_installed(host: Host, role_variables: dict[str, Any]) -> None:
    assert "chrony" in role_variables["seed_packages"]
    assert [n for n in role_variables["seed_packages"] if not host.package(n).is_installed] == []


def test_chrony_does_not_run_before_it_is_configured(host: Host) -> None:
    assert not host.service("chrony").is_running


def test_zfs_is_configured_only_if_the_site_has_a_pool(
    host: Host, role_variables: dict[str, Any]
) -> None:
    there = [host.file(path).exists for path in ZFS_FILES]
    assert there == [role_variables["seed_zfs"]] * len(ZFS_FILES)
