"""Disks in odd states, made by the real tools: both observers say what is on them.

`disks` looks a moment before the storage command or an image is written, `probe` and `facts` look
for preflight and `site init`; a disk that one calls blank and the other does not is lost.
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
from keystone.storage import disks
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


def put(disk: Path, sector: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(sector * SECTOR)
        file.write(data)


def gpt(disk: Path) -> None:
    table(disk, "label: gpt\nsize=10M\n")


def backup_header_alone(disk: Path) -> None:
    gpt(disk)
    put(disk, 0, bytes(34 * SECTOR))


def protective_mbr_alone(disk: Path) -> None:
    gpt(disk)
    put(disk, 1, bytes(33 * SECTOR))
    put(disk, LAST, bytes(33 * SECTOR))


def hybrid_mbr(disk: Path) -> None:
    gpt(disk)
    # A second entry beside the protective one (Intel's 0xEE), as macOS and gdisk write it.
    put(disk, 0, disk.read_bytes()[:462] + bytes([0, 0, 2, 0, 7, 0, 2, 0, 0, 8, 0, 0, 0, 80, 0, 0]))


def hybrid_iso(disk: Path) -> None:
    table(disk, "label: dos\nsize=10M, type=17\n")
    put(disk, 64, CDROM)


def pool(disk: Path) -> None:
    tool(sys.executable, FOREIGN_POOL, disk)


def luks(disk: Path) -> None:
    weak = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    tool("cryptsetup", "--batch-mode", "luksFormat", *weak, disk, "-", given="x")


STATES = {
    "gpt": (gpt, "partition table gpt"),
    "an empty gpt": (lambda d: table(d, "label: gpt\n"), "partition table gpt"),
    "the backup header of a gpt": (backup_header_alone, "partition table gpt"),
    "a protective MBR without its gpt": (protective_mbr_alone, "partition table PMBR"),
    "a hybrid MBR": (hybrid_mbr, "partition table"),
    "an MBR": (lambda d: table(d, "label: dos\nsize=10M\n"), "partition table dos"),
    "an empty MBR": (lambda d: table(d, "label: dos\n"), "partition table dos"),
    "a table of Sun's": (lambda d: table(d, "label: sun\n"), "sun"),
    "a hybrid ISO": (hybrid_iso, "iso9660"),
    "ext4": (lambda d: tool("mkfs.ext4", "-q", d), "ext4"),
    "FAT": (lambda d: tool("mkfs.vfat", d), "vfat"),
    "swap": (lambda d: tool("mkswap", "--quiet", d), "swap"),
    "LUKS": (luks, "crypto_LUKS"),
    "LVM": (lambda d: put(d, 1, LVM + b"A" * 32), "LVM2_member"),
    "labels of a pool": (pool, "holds pool theirs (guid 77)"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "sdx"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def entry(path: Path) -> dict[str, Any]:
    """As lsblk(8) says where udev knows nothing of what is on it."""
    return {
        "name": path.name, "kname": path.name, "path": str(path), "type": "disk", "serial": "A",
        "model": "X", "size": SIZE, "log-sec": SECTOR, "phy-sec": SECTOR, "tran": "sata",
        "rm": False, "ro": False, "pttype": None, "mountpoints": [None],
    }  # fmt: skip


def seen(path: Path) -> tuple[DiskFacts, DiskFacts]:
    """By the storage command, and by preflight."""
    node = str(path)
    here = disks.parse(entry(path), [], {node: disks._signatures(node)}, disks._label(node))
    told = {
        "lsblk": entry(path), "by_id": [], "signatures": probe.signatures([node]), "holders": [],
        "hostid": 0, "unreadable": probe.unreadable(node, SIZE),
    }  # fmt: skip
    return here, observe._disk(told)


@pytest.mark.parametrize("state", STATES)
def test_both_observers_see_it(disk: Path, state: str) -> None:
    make, words = STATES[state]
    make(disk)
    for found in seen(disk):
        assert not found.blank
        assert words in storage.found_on(found)


def test_both_call_a_disk_blank_that_is_and_one_that_was_emptied(disk: Path) -> None:
    assert all(found.blank for found in seen(disk))
    hybrid_mbr(disk)
    tool("wipefs", "--quiet", "--force", "--all", disk)
    assert all(found.blank for found in seen(disk))


def test_a_disk_that_does_not_answer_is_not_blank() -> None:
    broken = "/proc/self/mem"  # its begin is not mapped: EIO (proc(5))
    assert probe.unreadable(broken, 0) == "Input/output error"


def test_the_command_that_empties_a_disk_names_no_other() -> None:
    disk = replace(observe._disk({
        "lsblk": entry(Path("/dev/sda")), "by_id": [], "signatures": {}, "holders": [], "hostid": 0,
        "unreadable": "",
    }), partitions=("sda1", "sda2"))  # fmt: skip
    assert storage.emptied(disk) == "wipefs --all /dev/sda1 /dev/sda2 /dev/sda"


def test_of_two_disks_that_claim_a_link_the_one_has_it_that_it_leads_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, other = tmp_path / "sda", tmp_path / "sdb"
    names = {"its own": disk, "the other's": other}
    for name, leads_to in names.items():
        leads_to.touch()
        (tmp_path / name).symlink_to(leads_to)
    claims = [*(str(tmp_path / name) for name in names), "/dev/disk/by-path/pci-0"]
    device = type("Device", (), {"device_links": claims})()
    monkeypatch.setattr(disks, "BY_ID", str(tmp_path))
    monkeypatch.setattr(disks.pyudev.Devices, "from_device_file", lambda *_: device)
    assert disks.links(str(disk)) == [str(tmp_path / "its own")]
