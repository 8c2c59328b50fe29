"""Tests that need virtual machines: disks with content, ZFS on NVMe by serial number, and a power
failure while a pool is created. One virtual Primer, until its pool has all content.

The tests run in the order of this file and share one lab: each depends on the one before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.lab import demo

from . import rig as rigs
from .rig import NVME, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.lab.carry import Carried

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

FOREIGN_POOL = Path(__file__).with_name("foreign_pool.py").read_text()


@pytest.fixture(scope="module")
def rig(bundle: Carried) -> Iterator[Rig]:
    with rigs.started("test-machines", bundle, ["p1"], kind="virtual") as ready:
        yield ready


def untouched(rig: Rig) -> str:
    """Return the state that a refusal must not change."""
    return rig.sh(
        "p1",
        "find /etc /usr /var/lib /opt -xdev -newer /proc/1 -type f -not -path '/var/lib/systemd/*' "
        "| sort; lsblk -no NAME,FSTYPE,PTTYPE; ls /var/lib/keystone 2>&1",
        check=False,
    )


def test_disks_with_content_are_refused_by_serial(rig: Rig) -> None:
    rig.machine("p1").host().run(["python3", "-", f"{NVME}KEYP1B"], data=FOREIGN_POOL)
    rig.sh("p1", f"mkfs.ext4 -q -F {NVME}KEYP1A 64M")
    rig.sh("p1", "udevadm trigger --subsystem-match=block && udevadm settle --timeout=60")
    before = untouched(rig)
    result = rig.install("--yes")
    output = result.stdout + result.stderr
    assert result.returncode == 7, output
    for words in ("KEYP1A", "ext4", "KEYP1B", "theirs"):
        assert words in output
    assert untouched(rig) == before
    for serial in ("KEYP1A", "KEYP1B"):
        rig.sh(
            "p1",
            f"wipefs -qa {NVME}{serial}; "
            f"dd if=/dev/zero of={NVME}{serial} bs=1M count=8 status=none; udevadm settle",
        )


def test_unfit_machine_is_refused_with_all_findings(rig: Rig) -> None:
    rig.sh(
        "p1",
        "dd if=/dev/zero of=/swap bs=1M count=64 status=none; chmod 600 /swap; "
        "mkswap -q /swap; swapon /swap; "
        "fallocate -l $(($(stat -fc '%a*%S' /) - 100 * 1024 * 1024)) /fill",
    )
    try:
        result = rig.install("--yes")
        assert result.returncode == 6, result.stdout + result.stderr
        for word in ("swap", "free"):
            assert word in result.stderr
    finally:
        rig.sh("p1", "swapoff -a; rm -f /swap /fill")


def test_power_failure_while_the_pool_is_created(rig: Rig) -> None:
    with rigs.under_way(rig, "storage"):
        rig.machine("p1").power_cut()
    rig.lab.up(["p1"])
    demo.insert(rig.lab, rig.bundle)


def test_same_command_resumes_until_the_pool_has_the_content(rig: Rig) -> None:
    rigs.interrupt(rig, "registry", "KILL")
    store = json.loads(rig.sh("p1", "cat /var/lib/keystone/store/state.json"))
    assert store["complete"] is True
    assert rig.sh("p1", "stat -fc %T /var/lib/keystone/store").strip() == "zfs"


def test_pool_is_online_by_id_with_ashift_12(rig: Rig) -> None:
    rigs.assert_pool(rig, "p1")


def test_pool_is_imported_after_a_reboot(rig: Rig) -> None:
    rig.machine("p1").power_cut()
    rig.lab.up(["p1"])
    rigs.assert_pool(rig, "p1")
    for place in ("etcd", "containerd", "keystone/store", "keystone/volumes"):
        assert rig.sh("p1", f"findmnt -no FSTYPE /var/lib/{place}").strip() == "zfs"


def test_first_primer_serves_time(rig: Rig) -> None:
    rig.sh("p1", "systemctl is-active chrony && chronyc -n tracking | grep 'Leap status'")


def test_no_packet_leaked(rig: Rig) -> None:
    rigs.assert_no_leak(rig, counted="gateway")
