"""The lab itself: machines are plain, see each other and nothing else, and survive what we do."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from keystone.lab import base, network, settings
from keystone.lab.disk import usb_stick
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Booted

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SEND_DNS = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("9.9.9.9", 53))
"""
WAIT_FOR_STICK = (
    "for i in $(seq 300); do [ -e /dev/disk/by-label/KEYSTONE ] && exit 0; sleep 0.1; done; exit 1"
)


def test_a_plain_boot_sends_nothing_to_an_undeclared_address(booted: Booted) -> None:
    assert booted.counters["gateway"] > 0, "the counters count: ssh was answered"
    assert {name: booted.counters[name] for name in network.LEAKS} == {"leak": 0, "leak_dns": 0}
    assert network.leaked(booted.lab.settings) == []


def test_machines_reach_each_other(lab: Lab) -> None:
    lab.machine("p1").run(["ping", "-c", "1", "-W", "20", "10.77.0.21"])
    lab.machine("w1").run(["ping", "-c", "1", "-W", "20", "10.77.0.11"])


def test_the_base_is_a_plain_debian_fit_for_kubernetes(lab: Lab) -> None:
    p1 = lab.machine("p1")
    assert p1.run(["hostname"]).strip() == "p1"
    assert p1.run(["uname", "-r"]).strip() == base.kernel_version()
    assert p1.run(["swapon", "--show"]) == ""
    assert p1.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).strip() == "cgroup2fs"
    assert p1.run(["systemctl", "--failed", "--no-legend"]) == ""
    p1.run(["python3", "-c", "import sys; assert sys.version_info >= (3, 11)"])
    p1.run(["modprobe", "-a", "overlay", "br_netfilter", "vxlan", "nf_tables", "wireguard"])
    p1.run(["test", "-d", "/sys/firmware/efi"])
    found = p1.run(["find", "/etc", "/usr", "/var", "-xdev", "-iname", "*keystone*"])
    assert found == ""


def test_two_blank_nvme_disks_by_their_serials(lab: Lab) -> None:
    for name in ("p1", "w1"):
        machine = lab.machine(name)
        for serial in machine.settings.serials:
            disk = f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{serial}"
            size = machine.run(["blockdev", "--getsize64", disk])
            assert int(size) == lab.settings.disk_gib << 30
            assert machine.run(["wipefs", "--noheadings", disk]) == ""


def test_a_stick_comes_goes_and_cannot_be_written(lab: Lab, tmp_path: Path) -> None:
    payload = tmp_path / "offline.tar"
    payload.write_bytes(os.urandom(3 << 20))
    image = usb_stick([payload], tmp_path / "stick.img")
    p1 = lab.machine("p1")
    p1.attach_usb(image)
    p1.run(["sh", "-c", WAIT_FOR_STICK])
    p1.run(["mount", "-o", "ro", "/dev/disk/by-label/KEYSTONE", "/mnt"])
    seen = p1.run(["sha256sum", "/mnt/offline.tar"]).split()[0]
    assert seen == hashlib.sha256(payload.read_bytes()).hexdigest()
    assert p1.run(["sh", "-c", "blockdev --getro $(findmnt -no SOURCE /mnt)"]).strip() == "1"
    p1.run(["umount", "/mnt"])
    p1.detach_usb()
    p1.run(["sh", "-c", WAIT_FOR_STICK.replace("[ -e", "[ ! -e")])


def test_files_are_copied_whole(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(os.urandom(1 << 20))
    w1 = lab.machine("w1")
    w1.copy_to(source, "/root/program", mode=0o750)
    assert w1.run(["sha256sum", "/root/program"]).split()[0] == (
        hashlib.sha256(source.read_bytes()).hexdigest()
    )
    assert w1.run(["stat", "-c", "%a", "/root/program"]).strip() == "750"


def test_what_leaks_is_counted_and_named(lab: Lab) -> None:
    before = network.counters(lab.settings)
    w1 = lab.machine("w1")
    w1.run(["ping", "-c", "1", "-W", "1", "8.8.8.8"], check=False)
    w1.run(["python3", "-c", SEND_DNS])
    after = network.counters(lab.settings)
    assert after["leak"] == before["leak"] + 1
    assert after["leak_dns"] == before["leak_dns"] + 1
    assert {"10.77.0.21 > 8.8.8.8", "10.77.0.21 > 9.9.9.9"} <= set(network.leaked(lab.settings))


def test_up_again_does_nothing_and_a_cut_machine_comes_back(lab: Lab) -> None:
    p1, w1 = lab.machine("p1"), lab.machine("w1")
    pids = p1.pid(), w1.pid()
    assert lab.up(["p1", "w1"]) == {"p1": 0.0, "w1": 0.0}
    assert (p1.pid(), w1.pid()) == pids
    w1.run(["sh", "-c", "echo kept >/root/kept && sync"])
    w1.power_cut()
    assert w1.pid() == 0
    assert lab.up(["p1", "w1"])["w1"] > 0
    assert p1.pid() == pids[0]
    assert w1.run(["cat", "/root/kept"]) == "kept\n"


def test_a_machine_with_a_wrong_clock_and_little_memory(lab: Lab) -> None:
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
