"""Kernel module packages: names, sources and control data. Lab tests cover the compilation."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from keystone.errors import ConfigurationError, KeystoneError
from keystone.packager import kernel_modules

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.12.57+deb13-amd64"
TARGETS = """\
http://archive.example/debian/ bookworm main
http://archive.example/debian/ bookworm-updates main
http://archive.example/debian/ bookworm-backports main
http://archive.example/debian-security/ bookworm-security main
http://archive.example/debian/ bookworm non-free
http://other.example/apt nodistro main
"""


def test_sources_of_the_machine_are_rewritten_for_another_suite() -> None:
    signed = f"deb [signed-by={kernel_modules.KEYRING}]"
    assert kernel_modules.source_lines(TARGETS, "bookworm", "trixie") == [
        f"{signed} http://archive.example/debian-security/ trixie-security main contrib",
        f"{signed} http://archive.example/debian/ trixie main contrib",
        f"{signed} http://archive.example/debian/ trixie-updates main contrib",
    ]


def test_current_kernel_is_the_dependency_of_the_metapackage() -> None:
    shown = f"Package: linux-image-amd64\nDepends: linux-image-{RELEASE} (= 6.12.57-1)\n"
    assert kernel_modules.kernel_of(shown) == RELEASE
    with pytest.raises(KeystoneError, match="linux-image-amd64"):
        kernel_modules.kernel_of("Package: linux-image-amd64\n")


def test_kernel_given_by_release_needs_no_archive() -> None:
    assert kernel_modules.resolve_kernel("trixie", RELEASE) == RELEASE


@pytest.mark.parametrize("kernel", ["newest", "6.12", "6.12.57+deb13-arm64", "6.12.57;id-amd64"])
def test_invalid_kernel_release_is_refused(kernel: str) -> None:
    with pytest.raises(ConfigurationError, match="kernelModules"):
        kernel_modules.resolve_kernel("trixie", kernel)


def test_unknown_module_family_is_refused_with_a_list_of_known_ones() -> None:
    with pytest.raises(ConfigurationError) as error:
        kernel_modules.build("wireguard")
    assert "zfs" in error.value.hint


def test_control_file_replaces_the_dkms_package() -> None:
    control = kernel_modules.control_text("zfs", RELEASE, "2.3.9-0+deb13u1", 9)
    assert "Provides: zfs-modules (= 2.3.9-0+deb13u1)\n" in control
    assert "Conflicts: zfs-dkms\n" in control
    assert "linux-image" not in control


def test_equal_modules_give_equal_packages(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "work").mkdir(parents=True)
        made = {}
        for module in ("spl", "zfs"):
            made[module] = folder / f"{module}.ko"
            made[module].write_bytes(b"\x7fELF" + module.encode() * 1000)
        kernel_modules._pack("zfs", RELEASE, "2.3.9", made, folder / "x.deb")
        digests.add(hashlib.sha256((folder / "x.deb").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_missing_module_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(KeystoneError, match=r"spl\.ko"):
        kernel_modules._pack("zfs", RELEASE, "2", {"spl": tmp_path / "spl.ko"}, tmp_path / "x.deb")
    assert not (tmp_path / "x.deb").exists()
