"""What only virtual machines have: UEFI, NVMe disks, a kernel, a stick, their own clock."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from keystone.lab import settings
from keystone.lab.machines import base_system
from keystone.lab.machines.disk import usb_stick
from keystone.lab.machines.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

WAIT_FOR_STICK = (
    "for i in $(seq 300); do [ -e /dev/disk/by-label/KEYSTONE ] && exit 0; sleep 0.1; done; exit 1"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab("virtual", kind="virtual")
    made.down(purge=True)
    try:
        made.up(["p1", "w1"])
        yield made
    finally:
        made.down(purge=True)


def test_base_is_a_plain_debian_fit_for_kubernetes(lab: Lab) -> None:
    p1 = lab.machine("p1")
    assert p1.run(["hostname"]).strip() == "p1"
    assert p1.run(["uname", "-r"]).strip() == base_system.kernel_version()
    assert p1.run(["swapon", "--show"]) == ""
    assert p1.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).strip() == "cgroup2fs"
    assert p1.run(["systemctl", "--failed", "--no-legend"]) == ""
    p1.run(["python3", "-c", "import sys; assert sys.version_info >= (3, 11)"])
    p1.run(["modprobe", "-a", "overlay", "br_netfilter", "vxlan", "nf_tables", "wireguard"])
    p1.run(["test", "-d", "/sys/firmware/efi"])
    found = p1.run(["find", "/etc", "/usr", "/var", "-xdev", "-iname", "*keystone*"])
    assert found == ""


def test_two_blank_nvme_disks_have_their_serials(lab: Lab) -> None:
    for name in ("p1", "w1"):
        machine = lab.machine(name)
        for serial in machine.settings.serials:
            disk = f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{serial}"
            size = machine.run(["blockdev", "--getsize64", disk])
            assert int(size) == lab.settings.disk_gib << 30
            assert machine.run(["wipefs", "--noheadings", disk]) == ""


def test_stick_can_be_attached_and_removed_and_is_read_only(lab: Lab, tmp_path: Path) -> None:
    payload = tmp_path / "offline.tar"
    payload.write_bytes(os.urandom(3 << 20))
    image = usb_stick([payload], tmp_path / "stick.img")
    p1 = lab.virtual("p1")
    p1.attach_usb(image)
    p1.run(["sh", "-c", WAIT_FOR_STICK])
    p1.run(["mount", "-o", "ro", "/dev/disk/by-label/KEYSTONE", "/mnt"])
    seen = p1.run(["sha256sum", "/mnt/offline.tar"]).split()[0]
    assert seen == hashlib.sha256(payload.read_bytes()).hexdigest()
    assert p1.run(["sh", "-c", "blockdev --getro $(findmnt -no SOURCE /mnt)"]).strip() == "1"
    p1.run(["umount", "/mnt"])
    p1.detach_usb()
    p1.run(["sh", "-c", WAIT_FOR_STICK.replace("[ -e", "[ ! -e")])


def test_machine_with_a_wrong_clock_and_little_memory(lab: Lab) -> None:
    changed = settings.load(name=lab.settings.name).changed(
        "w1", memory_mib=768, rtc="2028-01-01T00:00:00"
    )
    w1 = Lab(changed).machine("w1")
    w1.forget()
    w1.start()
    w1.wait_ssh()
    assert w1.run(["date", "-u", "+%Y-%m-%d"]).strip() == "2028-01-01"
    assert 500 < int(w1.run(["free", "-m"]).split("Mem:")[1].split()[0]) < 768
    w1.forget()
