"""hosts.observe with disks in unusual states, made by the real tools.

Preflight and `site init` use these facts, and so do the storage command and images right before
they write a disk.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keystone.hosts import observe, probe
from keystone.hosts.facts import DiskFacts
from keystone.run import run
from keystone.storage import plan as storage

SIZE = 64 << 20
SECTOR = 512
LAST = SIZE // SECTOR - 33
FOREIGN_POOL = Path(__file__).parents[1] / "lab" / "foreign_pool.py"
LVM = b"LABELONE" + (1).to_bytes(8, "little") + bytes(4) + (32).to_bytes(4, "little") + b"LVM2 001"
CDROM = b"\x01CD001\x01"


def tool(*words: object, given: str = "") -> None:
    run(list(map(str, words)), data=given)


def table(disk: Path, text: str) -> None:
    tool("sfdisk", "--quiet", disk, given=text)


def write_at(disk: Path, sector: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(sector * SECTOR)
        file.write(data)


def gpt(disk: Path) -> None:
    table(disk, "label: gpt\nsize=10M\n")


def backup_header_only(disk: Path) -> None:
    gpt(disk)
    write_at(disk, 0, bytes(34 * SECTOR))


def protective_mbr_only(disk: Path) -> None:
    gpt(disk)
    write_at(disk, 1, bytes(33 * SECTOR))
    write_at(disk, LAST, bytes(33 * SECTOR))


def hybrid_mbr(disk: Path) -> None:
    gpt(disk)
    # A second entry beside the protective one (Intel's 0xEE), as macOS and gdisk write it.
    write_at(
        disk, 0, disk.read_bytes()[:462] + bytes([0, 0, 2, 0, 7, 0, 2, 0, 0, 8, 0, 0, 0, 80, 0, 0])
    )


def hybrid_iso(disk: Path) -> None:
    table(disk, "label: dos\nsize=10M, type=17\n")
    write_at(disk, 64, CDROM)


def pool(disk: Path) -> None:
    tool(sys.executable, FOREIGN_POOL, disk)


def luks(disk: Path) -> None:
    weak = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    tool("cryptsetup", "--batch-mode", "luksFormat", *weak, disk, "-", given="x")


STATES = {
    "gpt": (gpt, "partition table gpt"),
    "an empty gpt": (lambda d: table(d, "label: gpt\n"), "partition table gpt"),
    "the backup header of a gpt": (backup_header_only, "partition table gpt"),
    "a protective MBR without its gpt": (protective_mbr_only, "partition table PMBR"),
    "a hybrid MBR": (hybrid_mbr, "partition table"),
    "an MBR": (lambda d: table(d, "label: dos\nsize=10M\n"), "partition table dos"),
    "an empty MBR": (lambda d: table(d, "label: dos\n"), "partition table dos"),
    "a table of Sun's": (lambda d: table(d, "label: sun\n"), "sun"),
    "a hybrid ISO": (hybrid_iso, "iso9660"),
    "ext4": (lambda d: tool("mkfs.ext4", "-q", d), "ext4"),
    "FAT": (lambda d: tool("mkfs.vfat", d), "vfat"),
    "swap": (lambda d: tool("mkswap", "--quiet", d), "swap"),
    "LUKS": (luks, "crypto_LUKS"),
    "LVM": (lambda d: write_at(d, 1, LVM + b"A" * 32), "LVM2_member"),
    "labels of a pool": (pool, "holds pool theirs (guid 77)"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "sdx"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def entry(path: Path) -> dict[str, Any]:
    """Return a disk as lsblk(8) prints it when udev does not know its content."""
    return {
        "name": path.name, "kname": path.name, "path": str(path), "type": "disk", "serial": "A",
        "model": "X", "size": SIZE, "log-sec": SECTOR, "phy-sec": SECTOR, "tran": "sata",
        "rm": False, "ro": False, "pttype": None, "mountpoints": [None],
    }  # fmt: skip


def seen(path: Path) -> DiskFacts:
    signatures, unreadable = probe.read_signatures([str(path)], SIZE)
    return observe._disk({
        "lsblk": entry(path), "by_id": [], "signatures": signatures, "holders": [],
        "hostid": 0, "unreadable": unreadable,
    })  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_content_of_disk_is_found(disk: Path, state: str) -> None:
    make, words = STATES[state]
    make(disk)
    found = seen(disk)
    assert not found.blank
    assert words in storage.found_on(found)


def test_new_disk_and_wiped_disk_are_blank(disk: Path) -> None:
    assert seen(disk).blank
    hybrid_mbr(disk)
    tool("wipefs", "--quiet", "--force", "--all", disk)
    assert seen(disk).blank


def test_disk_with_read_error_is_not_blank() -> None:
    broken = "/proc/self/mem"  # its first bytes are not mapped: EIO (proc(5))
    assert probe.read_signatures([broken], 0) == ({}, "Input/output error")


def test_disk_that_wipefs_cannot_read_is_not_blank(tmp_path: Path) -> None:
    """wipefs(8) then prints nothing, as for a blank disk, and exits with a code."""
    disk, gone = tmp_path / "sda", str(tmp_path / "sda1")
    disk.write_bytes(bytes(8192))
    _, why = probe.read_signatures([str(disk), gone], 8192)
    assert gone in why


def test_wipefs_command_names_only_this_disk_and_its_partitions() -> None:
    disk = replace(observe._disk({
        "lsblk": entry(Path("/dev/sda")), "by_id": [], "signatures": {}, "holders": [], "hostid": 0,
        "unreadable": "",
    }), partitions=("sda1", "sda2"))  # fmt: skip
    assert storage.emptied(disk) == "wipefs --all /dev/sda1 /dev/sda2 /dev/sda"


def test_link_unknown_to_udev_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    known = type("Device", (), {"device_links": ["/dev/disk/by-id/ata-X_A", "/dev/disk/by-path/0"]})
    monkeypatch.setattr(observe.pyudev.Devices, "from_device_file", lambda *_: known)
    found = observe._disk({
        "lsblk": entry(Path("/dev/sda")), "signatures": {}, "holders": [], "hostid": 0,
        "unreadable": "", "by_id": ["/dev/disk/by-id/ata-X_A", "/dev/disk/by-id/made-by-hand"],
    })  # fmt: skip
    assert observe._with_links_of_udev(found).by_id == ("/dev/disk/by-id/ata-X_A",)
