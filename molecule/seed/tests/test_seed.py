"""What the role seed leaves: the packages that cannot wait for the store, and nothing running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testinfra.host import Host

ZFS_FILES = (
    "/etc/modprobe.d/keystone-zfs.conf",
    "/etc/systemd/system/zfs-import-scan.service.d/keystone.conf",
)


def test_what_it_was_told_is_installed(host: Host, told: dict[str, Any]) -> None:
    assert "chrony" in told["seed_packages"]
    assert [n for n in told["seed_packages"] if not host.package(n).is_installed] == []


def test_the_clock_waits_for_its_configuration(host: Host) -> None:
    assert not host.service("chrony").is_running


def test_zfs_is_configured_where_there_is_a_pool_to_come(host: Host, told: dict[str, Any]) -> None:
    there = [host.file(path).exists for path in ZFS_FILES]
    assert there == [told["seed_zfs"]] * len(ZFS_FILES)
