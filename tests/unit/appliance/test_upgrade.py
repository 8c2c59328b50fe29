"""Upgrade into the other slot: reading a medium, the plan, boot entries, GRUB's counter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keystone.appliance import upgrade
from keystone.appliance.write import Running
from keystone.errors import DamagedBundleError, KeystoneError, PreflightError, RefusedError
from keystone.image import bios, disk_layout
from keystone.image.squashfs import System
from keystone.image.uki import PARTS

OLD = System(Path("/dev/nvme0n1p3"), 4096, "1" * 64)
NOW = Running(OLD, 1, medium=False)
ESP = upgrade.Partition("/dev/nvme0n1p2", 2, upgrade.ESP_TYPE, "keystone-esp", "e", 512 << 20)
SLOT1 = upgrade.Partition(
    "/dev/nvme0n1p3", 3, upgrade.ROOT_TYPE, "keystone-1", str(OLD.partition), 2 << 30
)
SLOT2 = upgrade.Partition("/dev/nvme0n1p4", 4, upgrade.ROOT_TYPE, disk_layout.FREE, "f", 2 << 30)
STATE = upgrade.Partition("/dev/nvme0n1p5", 5, "x", disk_layout.STATE, "s", 2 << 30)
DISK = (ESP, SLOT1, SLOT2, STATE)


def medium(folder: Path, version: int = 2, digest: str = "2" * 64) -> upgrade.Offer:
    (folder / "boot").mkdir(parents=True)
    (folder / "keystone").mkdir()
    for name in PARTS:
        (folder / "boot" / name).write_text(name)
    (folder / "boot/cmdline").write_text(
        f"boot=keystone keystone.root={digest} keystone.tree=4096 keystone.version={version} quiet"
    )
    (folder / f"keystone/{digest}.root").write_bytes(bytes(8192))
    return upgrade.offered(folder)


def test_version_read_from_medium(tmp_path: Path) -> None:
    offer = medium(tmp_path, 7)
    assert (offer.version, offer.system.tree, offer.system.digest) == (7, 4096, "2" * 64)


@pytest.mark.parametrize("lost", ["boot/initrd", "boot/cmdline", f"keystone/{'2' * 64}.root"])
def test_medium_with_missing_file_is_damaged(tmp_path: Path, lost: str) -> None:
    medium(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DamagedBundleError):
        upgrade.offered(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"keystone.root=a keystone.tree=4096 keystone.version=2",
        b"keystone.root=../../../etc/shadow keystone.tree=4096 keystone.version=2",
        b"keystone.root=ROOT keystone.tree=x keystone.version=2",
        b"keystone.root=ROOT keystone.tree=-1 keystone.version=2",
        b"keystone.root=ROOT keystone.tree=4096 keystone.version=1.2",
        b"keystone.root=ROOT keystone.tree=4096 keystone.version=" + b"9" * 5000,
        b"keystone.root=ROOT keystone.tree=4096",
        b"xkeystone.root=ROOT keystone.tree=4096 keystone.version=2",
        b"\xff",
        b"",
    ],
)
def test_command_line_that_names_no_system_is_damage(tmp_path: Path, line: bytes) -> None:
    medium(tmp_path)
    (tmp_path / "boot/cmdline").write_bytes(line.replace(b"ROOT", b"2" * 64))
    with pytest.raises(DamagedBundleError, match=r"cmdline: names no system") as refused:
        upgrade.offered(tmp_path)
    assert refused.value.hint == "use another copy"


def test_newer_version_written_to_other_slot(tmp_path: Path) -> None:
    wanted = upgrade.plan(NOW, "/dev/nvme0n1", DISK, medium(tmp_path))
    assert (wanted.slot, wanted.esp, wanted.done) == (SLOT2, ESP, False)
    assert "which is empty" in wanted.describe()


def test_slot_of_previous_version_replaced(tmp_path: Path) -> None:
    new = System(Path(), 4096, "2" * 64)
    disk = (ESP, SLOT1, replace(SLOT2, label="keystone-2", uuid=str(new.partition)), STATE)
    wanted = upgrade.plan(
        Running(new, 2, medium=False), "/dev/nvme0n1", disk, medium(tmp_path, 3, "3" * 64)
    )
    assert wanted.slot == SLOT1
    assert "replacing keystone-1" in wanted.describe()


def test_slot_that_has_version_not_written_again(tmp_path: Path) -> None:
    offer = medium(tmp_path)
    held = replace(SLOT2, uuid=str(offer.system.partition), label="keystone-2")
    assert upgrade.plan(NOW, "/dev/nvme0n1", (ESP, SLOT1, held, STATE), offer).done
    interrupted = replace(held, label=disk_layout.FREE)  # while another version was copied
    assert not upgrade.plan(NOW, "/dev/nvme0n1", (ESP, SLOT1, interrupted, STATE), offer).done


@pytest.mark.parametrize("version", [1, 4])
def test_older_version_or_same_number_with_other_system_refused(
    tmp_path: Path, version: int
) -> None:
    with pytest.raises(RefusedError, match="is not newer than the running version 4"):
        upgrade.plan(replace(NOW, version=4), "/dev/nvme0n1", DISK, medium(tmp_path, version))


def test_slot_too_small_refused(tmp_path: Path) -> None:
    disk = (ESP, SLOT1, replace(SLOT2, size=4096), STATE)
    with pytest.raises(RefusedError, match="but the system needs"):
        upgrade.plan(NOW, "/dev/nvme0n1", disk, medium(tmp_path))


@pytest.mark.parametrize("disk", [(ESP, SLOT1), (SLOT1, SLOT2), (ESP, SLOT2), ()])
def test_disk_without_our_partitions_refused(
    tmp_path: Path, disk: tuple[upgrade.Partition, ...]
) -> None:
    with pytest.raises(PreflightError, match="/dev/nvme0n1"):
        upgrade.plan(NOW, "/dev/nvme0n1", disk, medium(tmp_path))


def test_system_that_runs_from_medium_not_upgraded() -> None:
    with pytest.raises(PreflightError, match="runs from a medium"):
        upgrade.observe(replace(NOW, medium=True))


def test_partitions_parsed_from_lsblk() -> None:
    child = {
        "path": "/dev/nvme0n1p2", "partn": 2, "parttype": upgrade.ESP_TYPE,
        "partlabel": "keystone-esp", "partuuid": "e", "size": 512 << 20,
    }  # fmt: skip
    nothing = dict.fromkeys(("partn", "parttype", "partlabel", "partuuid"))
    listed = {"blockdevices": [{**nothing, "path": "/dev/nvme0n1", "children": [
        child, {**nothing, "path": "/dev/mapper/x", "size": 1},
    ]}]}  # fmt: skip
    assert upgrade.parse(json.dumps(listed)) == (ESP,)
    # Without the column NAME, lsblk of util-linux 2.41 gives a flat list.
    flat = [{**nothing, "path": "/dev/nvme0n1"}, child, {**nothing, "path": "/dev/mapper/x"}]
    assert upgrade.parse(json.dumps({"blockdevices": flat})) == (ESP,)


def test_kernel_image_is_last_file_of_version() -> None:
    parts = {name: Path(name) for name in PARTS}
    assert list(disk_layout.of_version(parts, 2))[-1] == disk_layout.uki_name(2)


def test_menu_failure_removes_no_boot_entry(tmp_path: Path) -> None:
    """As after an interrupted upgrade by an earlier keystone-install."""
    for version in (1, 2):
        uki = tmp_path / disk_layout.uki_name(version)
        uki.parent.mkdir(parents=True, exist_ok=True)
        uki.touch()
    (tmp_path / "keystone/1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        upgrade._remove_entries(tmp_path, keep=2)
    assert (tmp_path / disk_layout.uki_name(1)).exists()


def test_boot_entries_removed_except_those_of_running_version(tmp_path: Path) -> None:
    for version in (1, 2):
        for name in (disk_layout.uki_name(version), f"keystone/{version}/cmdline"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
    upgrade._remove_entries(tmp_path, keep=2)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {
        disk_layout.uki_name(2), "keystone/2/cmdline",
        disk_layout.GRUB_MENU, disk_layout.GRUB_ENVIRONMENT,
    }  # fmt: skip


def test_grub_environment_block_written_and_read() -> None:
    block = bios.environment({"good": "1", "trying": "2", "tries": "3"})
    assert len(block) == 1024
    assert bios.values(block) == {"good": "1", "trying": "2", "tries": "3"}
    assert bios.values("something else") == {}
    with pytest.raises(KeystoneError):
        bios.environment({"good": "1" * 1024})


def test_grub_menu_has_entry_for_each_version_newest_first() -> None:
    text = bios.slots({1: "a", 2: "b"})
    assert text.index("--id keystone-2") < text.index("--id keystone-1")
    assert "linux /keystone/2/vmlinuz b $counted\n" in text
    assert 'set default="keystone-$good"' in text
