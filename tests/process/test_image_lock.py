"""`image lock --keep-packages`, as it is typed: another Keystone and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.locked import OURS, RECIPE, every, made

from keystone.image import recipe
from keystone.packager import lock as locks

from .command_line import CommandLine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
LOCK = ("image", "lock", "image.yaml", "--keep-packages")


def test_keystone_is_made_anew_and_no_package_moves(tmp_path: Path) -> None:
    line, path = CommandLine(tmp_path), tmp_path / "image.yaml"
    path.write_text(RECIPE)
    old = made(1, OURS, *every(recipe.load(path)))
    path.with_suffix(".lock.json").write_bytes(locks.dump(old))
    said = line.said(0, *LOCK)
    assert "~ installer keystone-install" in said
    assert "solve packages" not in said
    new = locks.load(path.with_suffix(".lock.json"))
    assert new.created == old.created
    assert new.items[1:] == old.items[1:]
    assert new.items[0].digest != OURS.digest
    assert OURS.digest not in {blob.digest for blob in new.blobs}
    assert "nothing changed" in line.said(0, *LOCK)

    path.write_text(RECIPE.replace("[chrony]", "[chrony, tmux]"))
    said = line.said(3, *LOCK)
    assert "trixie, group image: tmux is not locked" in said
    assert locks.load(path.with_suffix(".lock.json")) == new


def test_without_a_lock_there_is_nothing_to_keep(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_text(RECIPE)
    said = CommandLine(tmp_path).said(3, *LOCK)
    assert "there is no lock whose packages could be kept" in said
    assert "keystone-install image lock image.yaml" in said
