"""Images: recipes, names of build steps, disk layout, and the plan to write a disk."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keystone.appliance import write, write_mark
from keystone.errors import (
    ConfigurationError,
    HostError,
    KeystoneError,
    PreflightError,
    RefusedError,
)
from keystone.hosts.facts import DiskFacts
from keystone.image import bios, build, disk_layout, recipe, secureboot, steps, uki
from keystone.image.squashfs import System
from keystone.sandbox import Tree

IMAGES = Path(__file__).parents[3] / "images"
DIGEST = "2b97bd1fc25a113bef13ae3f03f5a08eabd3a89a377d567fb1aeeb104b78b972"
SYSTEM = System(Path("/dev/loop0"), 226_000_896, DIGEST)
NOW = write.Running(SYSTEM, 1, medium=True)
BLANK = DiskFacts(
    name="nvme0n1", path="/dev/nvme0n1", by_id=(), serial="SYS1", model="", size=24 << 30,
    logical_sector=512, physical_sector=512,
)  # fmt: skip
WRITTEN = replace(BLANK, partition_table="gpt", partitions=("nvme0n1p1", "nvme0n1p2"))


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*/image.yaml")), ids=lambda p: p.parent.name)
def test_recipes_of_this_repository_are_valid(path: Path) -> None:
    found = recipe.load(path)
    assert found.name == path.parent.name
    groups = found.definition().debs[0].groups
    assert set(found.packages) < set(groups[recipe.IMAGE_GROUP])
    assert recipe.file_of(path.parent) == path


def test_recipe_with_mistakes_refused_with_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "image.yaml"
    file.write_text(
        "apiVersion: keystone/v1alpha1\nkind: ImageRecipe\nmetadata: {name: x}\n"
        "spec:\n  version: 0\n  suite: trixie\n  packages: [python3]\n  kernelModule: [zfs]\n"
    )
    with pytest.raises(ConfigurationError) as error:
        recipe.load(file)
    mistakes = [str(mistake) for mistake in error.value.mistakes]
    assert len(mistakes) == 2
    assert any("kernelModules" in line for line in mistakes)


def test_recipe_with_missing_folders_refused(tmp_path: Path) -> None:
    file = tmp_path / "image.yaml"
    file.write_text(
        "apiVersion: keystone/v1alpha1\nkind: ImageRecipe\nmetadata: {name: x}\nspec:\n"
        "  version: 1\n  suite: trixie\n  packages: [python3]\n  files: [a, b]\n  initramfs: c\n"
    )
    with pytest.raises(ConfigurationError) as error:
        recipe.load(file)
    assert len(error.value.mistakes) == 3


def test_step_name_depends_on_all_inputs_and_not_on_their_order() -> None:
    names = {steps.key("a", 1, ["x"]), steps.key("a", 1, ["y"]), steps.key("b", 1, ["x"])}
    assert len(names) == 3
    assert steps.key("a", {"x": 1, "y": 2}) == steps.key("a", {"y": 2, "x": 1})


def test_disk_image_is_copy_of_cached_step_and_other_formats_link_it(tmp_path: Path) -> None:
    made, image = tmp_path / "step", tmp_path / "out/image"
    made.write_bytes(b"as it was built")
    build.place(made, image, own=True)
    image.write_bytes(b"started")
    assert made.read_bytes() == b"as it was built"
    build.place(made, image, own=False)
    assert image.samefile(made)
    assert sorted(build.STARTED) == ["qcow2", "raw"]


def test_folder_digest_depends_on_names_bytes_modes_and_links_but_not_on_times(
    tmp_path: Path,
) -> None:
    (tmp_path / "etc").mkdir()
    file, seen = tmp_path / "etc/hosts", set()

    def look() -> None:
        seen.add(steps.folder_digest([tmp_path]))

    file.write_text("a")
    look()
    file.write_text("b")
    look()
    file.chmod(0o755)
    look()
    file.rename(tmp_path / "etc/host")
    look()
    (tmp_path / "link").symlink_to("etc")
    look()
    assert len(seen) == 5
    os.utime(tmp_path / "etc/host", (1, 1))
    look()
    assert len(seen) == 5


def test_step_made_once_and_renamed_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def interrupted(half: Path) -> None:
        (half / "file").write_text("half")
        raise KeyboardInterrupt

    def make(half: Path) -> None:
        assert list(half.iterdir()) == []
        made.append(half)

    with pytest.raises(KeyboardInterrupt):
        steps.step("x", "x", interrupted)
    assert not (steps.home() / "x").exists()
    assert steps.step("x", "x", make) == steps.step("x", "x", make) == steps.home() / "x"
    assert len(made) == 1


def test_unused_steps_removed_after_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(steps, "home", lambda: tmp_path)
    old, new = (steps.step(f"a-{name}", name, lambda _half: None) for name in ("old", "new"))
    partial = tmp_path / "a-more.partial"
    partial.mkdir()
    now = new.stat().st_mtime
    for folder in (old, partial):
        os.utime(folder, (now, now - steps.KEPT * 86400 - 1))
    steps.sweep(now)
    assert [folder.exists() for folder in (old, partial, new)] == [False, False, True]
    steps.step("a-new", "new", lambda _half: None)
    steps.sweep(now + steps.KEPT * 86400 - 60)
    assert new.exists()


def test_stack_names_layers_from_top_by_relative_path(tmp_path: Path) -> None:
    tree = Tree(tmp_path, (tmp_path / "a/tree",)).over(tmp_path / "b/tree")
    assert tree.stack() == "b/tree:a/tree"


def test_slot_label_and_uuid_come_from_system() -> None:
    contents = disk_layout.Contents("/core", "/blocks", "/esp")
    files = disk_layout.definitions(SYSTEM, 7, contents)
    slot = files["20-slot.conf"]
    assert "UUID=2b97bd1f-c25a-113b-ef13-ae3f03f5a08e\n" in slot
    assert "Label=keystone-7\n" in slot
    assert "CopyBlocks=/blocks\n" in slot
    assert "Label=_empty\n" in files["30-slot.conf"]
    assert "CopyFiles" not in files["40-state.conf"]
    seeded = disk_layout.definitions(SYSTEM, 7, replace(contents, seed="/seed"))
    assert "CopyFiles=/seed:/\n" in seeded["40-state.conf"]


def test_running_system_parsed_from_command_line() -> None:
    line = f"boot=keystone keystone.root={DIGEST} keystone.tree=226000896 console=tty0"
    found = write.running(line, "medium\n", "/dev/loop0\n", "ID=debian\nIMAGE_VERSION=1\n")
    assert found == NOW
    assert not write.running(line, "disk\n", "/dev/nvme0n1p2\n", "IMAGE_VERSION=1\n").medium


@pytest.mark.parametrize(
    ("line", "release"),
    [("root=/dev/sda1", "IMAGE_VERSION=1"), (f"keystone.root={DIGEST}", "IMAGE_VERSION=1"),
     (f"keystone.root={DIGEST} keystone.tree=1", "ID=debian")],
)  # fmt: skip
def test_other_running_system_refused(line: str, release: str) -> None:
    with pytest.raises(PreflightError):
        write.running(line, "medium", "/dev/loop0", release)


def test_blank_disk_to_write_and_written_disk_done() -> None:
    assert not write.plan(NOW, [BLANK], "SYS1", "", begun=False).done
    assert write.plan(NOW, [WRITTEN], "SYS1", "nvme0n1p2", begun=False).done


def test_interrupted_write_repeated_or_only_completed() -> None:
    for table in ("", "gpt", "PMBR"):
        disk = replace(BLANK, partition_table=table)
        wanted = write.plan(NOW, [disk], "SYS1", "", begun=True)
        assert (wanted.done, wanted.held) == (False, False)
        assert "an earlier write is incomplete" in wanted.describe()
    wanted = write.plan(NOW, [WRITTEN], "SYS1", "nvme0n1p2", begun=True)
    assert (wanted.done, wanted.held) == (False, True)


@pytest.mark.parametrize(
    "more",
    [{"partitions": ("nvme0n1p1",)}, {"signatures": ("nvme0n1: ext4",)}, {"mounted": ("/srv",)},
     {"holders": ("md0",)}, {"read_only": True}],
)  # fmt: skip
def test_write_mark_with_other_content_refused(more: dict[str, Any]) -> None:
    disk = replace(BLANK, partition_table="gpt", **more)
    with pytest.raises(RefusedError, match="SYS1"):
        write.plan(NOW, [disk], "SYS1", "", begun=True)


def test_write_mark_valid_on_one_disk_and_cleared(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * (2 << 20))
    assert not write_mark.is_on(str(disk), "SYS1")
    write_mark.put(str(disk), "SYS1")
    assert write_mark.is_on(str(disk), "SYS1")
    assert not write_mark.is_on(str(disk), "SYS2")
    with disk.open("r+b") as file:
        write_mark.clear(file.fileno())
    assert not write_mark.is_on(str(disk), "SYS1")
    around = disk.read_bytes()
    assert around.count(b"x") == len(around) - write_mark.SIZE
    with pytest.raises(HostError, match="SYS1"):
        write_mark.is_on(str(tmp_path / "none"), "SYS1")


@pytest.mark.parametrize(
    ("disks", "serial", "why"),
    [
        ([BLANK], "SYS2", "not found"),
        ([replace(BLANK, serial="")], "", "disk without a serial number: not found"),
        ([BLANK, replace(BLANK, path="/dev/nvme1n1")], "SYS1", "2 disks have this serial"),
        ([replace(BLANK, size=4 << 30)], "SYS1", "but the system needs"),
        ([replace(BLANK, partition_table="gpt")], "SYS1", "partition table gpt"),
        ([replace(BLANK, signatures=("nvme0n1: ext4",))], "SYS1", "ext4"),
        ([replace(BLANK, mounted=("/srv",))], "SYS1", "mounted at /srv"),
        ([replace(BLANK, read_only=True)], "SYS1", "read-only"),
        # Another version of ours: its state partition must be kept.
        ([replace(BLANK, partition_table="gpt", partitions=("nvme0n1p2",))], "SYS1", "nvme0n1p2"),
    ],
)
def test_unsuitable_disk_refused_with_serial_and_reason(
    disks: list[DiskFacts], serial: str, why: str
) -> None:
    with pytest.raises(RefusedError, match=serial or "without") as error:
        write.plan(NOW, disks, serial, "sdb2", begun=False)
    assert why in error.value.message


def test_disk_with_4096_byte_sectors_refused_under_bios_only() -> None:
    large = replace(BLANK, logical_sector=4096)
    with pytest.raises(RefusedError, match=r"SYS1.*a BIOS cannot start from sectors of 4096"):
        write.plan(replace(NOW, uefi=False), [large], "SYS1", "", begun=False)
    assert not write.plan(NOW, [large], "SYS1", "", begun=False).done
    assert not write.plan(replace(NOW, uefi=False), [BLANK], "SYS1", "", begun=False).done


def test_system_that_runs_from_disk_writes_no_disk() -> None:
    with pytest.raises(PreflightError, match="its own disk"):
        write.plan(replace(NOW, medium=False), [BLANK], "SYS1", "", begun=False)


def test_grub_loader_has_its_sector_numbers() -> None:
    core = bytearray(5 * bios.SECTOR - 100)
    struct.pack_into("<QHH", core, bios.BLOCK_LIST, 2, 4, bios.SEGMENT)
    made = bios.placed(b"B" * bios.SECTOR, bytes(core))
    assert len(made.code) == bios.CODE
    assert struct.unpack_from("<Q", made.code, bios.KERNEL_SECTOR) == (2048,)
    assert struct.unpack_from("<QHH", made.core, bios.BLOCK_LIST) == (2049, 4, bios.SEGMENT)
    assert len(made.core) == 5 * bios.SECTOR


def test_medium_menu_has_entry_that_ignores_the_disk() -> None:
    text = bios.menu("Keystone primer 1", "/boot", "boot=keystone quiet")
    first, second = text.split("menuentry ")[1:]
    assert "linux /boot/vmlinuz boot=keystone quiet\n" in first
    assert "linux /boot/vmlinuz boot=keystone quiet keystone.medium\n" in second


@pytest.mark.parametrize(("boot", "core"), [(b"", bytes(2048)), (bytes(512), bytes(2048))])
def test_files_that_are_not_grub_refused(boot: bytes, core: bytes) -> None:
    with pytest.raises(KeystoneError, match="is not for a BIOS"):
        bios.placed(boot, core)


def test_esp_has_boot_files_for_uefi_and_bios(tmp_path: Path) -> None:
    parts = {name: tmp_path / name for name in uki.PARTS}
    parts["cmdline"].write_text(f"boot=keystone keystone.root={DIGEST}")
    found = disk_layout.esp(parts, 7)
    assert found["EFI/BOOT/BOOTX64.EFI"] == parts[uki.LOADER]
    assert found["EFI/Linux/keystone_7+3.efi"] == parts["linux.efi"]
    assert f"linux /keystone/7/vmlinuz boot=keystone keystone.root={DIGEST} $counted\n" in str(
        found["keystone/grub.cfg"]
    )
    assert found["keystone/7/initrd"] == parts["initrd"]


def test_secure_boot_keys_made_once(tmp_path: Path) -> None:
    made = secureboot.make(tmp_path, "plant", datetime(2026, 11, 21, tzinfo=UTC))
    assert made == secureboot.load(tmp_path)
    assert len(made.digest) == 64
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("PK", "KEK", "db") for kind in ("key", "pem", "cer")
    }
    assert made.key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RefusedError, match="already exists"):
        secureboot.make(tmp_path, "plant", datetime(2026, 11, 21, tzinfo=UTC))
    made.certificate.unlink()
    with pytest.raises(ConfigurationError, match=r"db\.pem"):
        secureboot.load(tmp_path)


def test_signature_appended_to_kernel_module(tmp_path: Path) -> None:
    keys = secureboot.make(tmp_path, "Plant", datetime(2026, 1, 1, tzinfo=UTC))
    signed = secureboot.signed_module(keys, b"code")
    assert signed == secureboot.signed_module(keys, b"code")
    assert signed.startswith(b"code")
    assert signed.endswith(secureboot.APPENDED)
    about = signed[: -len(secureboot.APPENDED)][-12:]
    (size,) = struct.unpack(">I", about[8:])
    assert about[:8] == bytes([0, 0, secureboot.PKCS7, 0, 0, 0, 0, 0])
    assert len(signed) == len(b"code") + size + 12 + len(secureboot.APPENDED)
