"""`image lock --keep-packages` on the command line: a new Keystone, without network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.image.locked import OURS, RECIPE, every, made

from keystone.image import recipe
from keystone.packager import lock as locks

from .command_line import CommandLine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
LOCK = ("image", "lock", "image.yaml", "--keep-packages")


def test_keep_packages_replaces_only_keystone(tmp_path: Path) -> None:
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


def test_keep_packages_without_lock_refused(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_text(RECIPE)
    said = CommandLine(tmp_path).said(3, *LOCK)
    assert "the lock does not exist, so --keep-packages has no packages to keep" in said
    assert "keystone-install image lock image.yaml" in said
