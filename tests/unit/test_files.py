"""Final names: whole or not there, over what was there before, with nothing half-made left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keystone import files


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fsync was asked for, in order, by the name that it had then."""
    told: list[str] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        told.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    return told


def test_a_file_is_on_the_disk_before_its_name_is(tmp_path: Path, synced: list[str]) -> None:
    half, final = tmp_path / "half", tmp_path / "final"
    final.write_bytes(b"old")
    half.write_bytes(b"new")
    files.settle(half, final)
    assert synced == [str(half), str(tmp_path)]
    assert (final.read_bytes(), half.exists()) == (b"new", False)


def test_a_file_that_its_writer_synced_is_named_only(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "half").write_bytes(b"new")
    (tmp_path / "folder").mkdir()
    files.settle(tmp_path / "half", tmp_path / "folder/final", synced=True)
    assert synced == [str(tmp_path / "folder")]


def test_a_tree_is_on_the_disk_with_all_its_files(tmp_path: Path, synced: list[str]) -> None:
    half = tmp_path / "half"
    (half / "inner").mkdir(parents=True)
    (half / "inner/file").write_bytes(b"1")
    (half / "link").symlink_to("/etc/hostname")
    files.settle(half, tmp_path / "final")
    assert set(synced) == {str(p) for p in (half, half / "inner", half / "inner/file", tmp_path)}
    assert synced[-1] == str(tmp_path)
    assert (tmp_path / "final/inner/file").read_bytes() == b"1"


def test_a_made_folder_has_its_name_when_the_block_ends_well(tmp_path: Path) -> None:
    (tmp_path / "step.partial").mkdir()
    (tmp_path / "step.partial/litter").touch()
    with files.made(tmp_path / "step", 0o700) as half:
        (half / "file").touch()
        assert not (tmp_path / "step").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    assert [path.name for path in (tmp_path / "step").iterdir()] == ["file"]
    assert (tmp_path / "step").stat().st_mode & 0o777 == 0o700


def test_a_made_folder_is_gone_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with files.made(tmp_path / "step") as half:
            (half / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_led_elsewhere_over_what_a_cut_run_left(tmp_path: Path) -> None:
    name = tmp_path / "current"
    for number in (1, 2):
        (tmp_path / ".current.new").symlink_to("of a run that was cut")
        files.link(name, f"version-{number}")
        assert str(name.readlink()) == f"version-{number}"
    assert [path.name for path in tmp_path.iterdir()] == ["current"]
