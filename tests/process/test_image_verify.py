"""`image verify`: a medium is read whole at a desk, and its release compared."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from keystone.appliance import verify_medium as verifying
from keystone.appliance.verify_medium import verify
from keystone.cli.image import group
from keystone.errors import DamagedBundleError, PreflightError, UntrustedBundleError
from keystone.image import release
from keystone.run import run

from .media import Builder, fakes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is in a medium; `packed` makes the file."""
    fakes(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    known = tmp_path / "filesystems"
    known.write_text("nodev\ttmpfs\n\tiso9660\n")
    monkeypatch.setattr(verifying, "FILESYSTEMS", known)
    return Builder(tmp_path).files().parent / "tree"


def packed(tree: Path) -> Path:
    run(["tar", "-cf", tree.parent / "primer.iso", "-C", tree, "."])
    return tree.parent / "primer.iso"


def test_a_whole_medium_says_what_it_is_and_what_rides_on_it(tree: Path) -> None:
    (tree / "keystone/offline.tar").write_text("a bundle")
    (tree / "keystone/site.yaml").write_text("kind: Site")
    named = release.digest((tree / "boot" / release.SUMS).read_text())
    image = packed(tree)
    found = verify(image, named)
    assert (found.version, found.release) == (2, named)
    assert found.system == hashlib.sha256(b"system one").hexdigest()
    assert found.carries == ("offline.tar", "site.yaml")
    done = CliRunner().invoke(group, ["verify", str(image), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["release"] == named
    said = CliRunner().invoke(group, ["verify", str(image)]).stdout
    assert "version 2" in said
    assert named in said


def test_another_release_is_not_trusted(tree: Path) -> None:
    with pytest.raises(UntrustedBundleError, match=r"primer\.iso: whole, but its release is"):
        verify(packed(tree), "0" * 64)


@pytest.mark.parametrize("name", ["core.img", "initrd", "cmdline", "SHA256SUMS"])
def test_a_changed_boot_file_is_named(tree: Path, name: str) -> None:
    file = tree / "boot" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DamagedBundleError, match=rf"{name}: not as it was built"):
        verify(packed(tree))


def test_a_changed_system_is_found(tree: Path) -> None:
    (system,) = tree.glob("keystone/*.root")
    system.write_bytes(b"system two")
    with pytest.raises(DamagedBundleError, match=rf"{system.name}"):
        verify(packed(tree))


@pytest.mark.parametrize("name", ["cmdline", "SHA256SUMS"])
def test_a_medium_without_a_file_is_damaged(tree: Path, name: str) -> None:
    (tree / "boot" / name).unlink()
    with pytest.raises(DamagedBundleError, match=name):
        verify(packed(tree))


def test_something_else_than_a_medium_is_said(tree: Path) -> None:
    other = tree.parent / "other.iso"
    other.write_bytes(b"PK" * 1000)
    with pytest.raises(DamagedBundleError, match=r"other\.iso: not an installer medium"):
        verify(other)


def test_a_damaged_efi_partition_is_damage(tree: Path) -> None:
    (tree / "boot/efi.img").write_bytes(b"PK" * 1000)
    with pytest.raises(DamagedBundleError, match=r"primer\.iso: .* damaged"):
        verify(packed(tree))


def test_a_kernel_that_knows_no_such_file_system_says_nothing_of_the_medium(tree: Path) -> None:
    verifying.FILESYSTEMS.write_text("nodev\ttmpfs\n\text4\n")
    other = tree.parent / "other.iso"
    other.write_bytes(b"PK" * 1000)
    with pytest.raises(PreflightError, match="does not know iso9660"):
        verify(other)


def test_it_needs_root(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = packed(tree)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreflightError, match="only root"):
        verify(image)
