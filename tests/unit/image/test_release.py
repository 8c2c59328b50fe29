"""The list of boot files on a medium, and its digest, the release."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from keystone.errors import DamagedBundleError
from keystone.image import disk_layout, release
from keystone.image.uki import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `boot` of a medium; a folder stands in for the EFI partition."""
    build, boot, efi = (tmp_path / name for name in ("build", "boot", "efi"))
    for folder in (build, boot, (efi / disk_layout.REMOVABLE).parent):
        folder.mkdir(parents=True)
    for name in PARTS:
        (build / name).write_text(name)
        (boot / name).write_text(name)
    (boot / release.UKI).rename(efi / disk_layout.REMOVABLE)
    (boot / release.SUMS).write_text(release.of(build))

    @contextmanager
    def mounted(image: Path, *_: str) -> Iterator[Path]:
        assert image == boot / "efi.img"
        yield efi

    monkeypatch.setattr(release, "mounted", mounted)
    return boot


def test_list_has_format_of_sha256sum(medium: Path) -> None:
    listed = release.check(medium)
    line = f"{hashlib.sha256(b'initrd').hexdigest()}  initrd"
    assert line in listed.splitlines()
    assert len(listed.splitlines()) == len(PARTS)
    assert release.digest(listed) == hashlib.sha256(listed.encode()).hexdigest()


@pytest.mark.parametrize("name", [*PARTS, release.SUMS])
def test_changed_file_named(medium: Path, name: str) -> None:
    file = medium / name
    if name == release.UKI:
        file = medium.parent / "efi" / disk_layout.REMOVABLE
    file.write_text(file.read_text() + "x")
    with pytest.raises(DamagedBundleError, match=rf"boot/{name}: not as it was built"):
        release.check(medium)


def test_changed_initrd_with_matching_list_gives_other_release(medium: Path) -> None:
    before = release.digest(release.check(medium))
    (medium / "initrd").write_text("evil")
    fits = hashlib.sha256(b"evil").hexdigest()
    old = hashlib.sha256(b"initrd").hexdigest()
    sums = medium / release.SUMS
    sums.write_text(sums.read_text().replace(old, fits))
    assert release.digest(release.check(medium)) != before


def test_medium_without_list_refused(medium: Path) -> None:
    (medium / release.SUMS).unlink()
    with pytest.raises(DamagedBundleError, match="SHA256SUMS does not exist"):
        release.check(medium)
