"""`image verify`: a medium is verified at a desk, and its release compared."""

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
    """The tree of a medium; `packed` makes the file."""
    fakes(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    known = tmp_path / "filesystems"
    known.write_text("nodev\ttmpfs\n\tiso9660\n")
    monkeypatch.setattr(verifying, "FILESYSTEMS", known)
    return Builder(tmp_path).files().parent / "tree"


def packed(tree: Path) -> Path:
    run(["tar", "-cf", tree.parent / "primer.iso", "-C", tree, "."])
    return tree.parent / "primer.iso"


def test_intact_medium_verified_with_release_and_further_files(tree: Path) -> None:
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
    text = CliRunner().invoke(group, ["verify", str(image)]).stdout
    assert "version 2" in text
    assert named in text


def test_release_other_than_named_not_trusted(tree: Path) -> None:
    with pytest.raises(UntrustedBundleError, match=r"primer\.iso: complete, but its release is"):
        verify(packed(tree), "0" * 64)


@pytest.mark.parametrize("name", ["core.img", "initrd", "cmdline", "SHA256SUMS"])
def test_changed_boot_file_named(tree: Path, name: str) -> None:
    file = tree / "boot" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DamagedBundleError, match=rf"{name}: not as it was built"):
        verify(packed(tree))


def test_changed_system_detected(tree: Path) -> None:
    (system,) = tree.glob("keystone/*.root")
    system.write_bytes(b"system two")
    with pytest.raises(DamagedBundleError, match=rf"{system.name}"):
        verify(packed(tree))


@pytest.mark.parametrize("name", ["cmdline", "SHA256SUMS"])
def test_medium_with_missing_file_is_damaged(tree: Path, name: str) -> None:
    (tree / "boot" / name).unlink()
    with pytest.raises(DamagedBundleError, match=name):
        verify(packed(tree))


def test_file_that_is_no_medium_refused(tree: Path) -> None:
    other = tree.parent / "other.iso"
    other.write_bytes(b"PK" * 1000)
    with pytest.raises(DamagedBundleError, match=r"other\.iso: not an installer medium"):
        verify(other)


def test_damaged_efi_partition_refused(tree: Path) -> None:
    (tree / "boot/efi.img").write_bytes(b"PK" * 1000)
    with pytest.raises(DamagedBundleError, match=r"primer\.iso: .* damaged"):
        verify(packed(tree))


def test_kernel_without_iso9660_reported_as_not_verified(tree: Path) -> None:
    verifying.FILESYSTEMS.write_text("nodev\ttmpfs\n\text4\n")
    other = tree.parent / "other.iso"
    other.write_bytes(b"PK" * 1000)
    with pytest.raises(
        PreflightError,
        match="not verified, because the kernel of this machine does not support iso9660",
    ):
        verify(other)


def test_verify_needs_root(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = packed(tree)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreflightError, match="needs root"):
        verify(image)
