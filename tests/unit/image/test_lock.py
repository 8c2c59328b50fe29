"""A recipe locked again: which parts of the previous lock are kept, and when they cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError
from keystone.image import recipe, relock
from keystone.packager import lock as locks

from .locked import OURS, RECIPE, deb, every, made

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.yaml"
    path.write_text(RECIPE)
    return path


def test_date_kept_if_only_keystone_changed() -> None:
    chrony = deb(1, "chrony", "image")
    old = made(1, chrony, OURS)
    assert relock.dated(made(2, chrony), old) == made(1, chrony)
    newer = made(2, replace(chrony, digest=OURS.digest), OURS)
    assert relock.dated(newer, old) == newer
    assert relock.dated(old, None) == old


def test_packages_and_date_kept_with_new_keystone(file: Path) -> None:
    wanted = recipe.load(file)
    packages = every(wanted)
    old = made(1, OURS, *packages)
    relock.require_packages(old, wanted)
    other = replace(OURS, digest=Digest("2" * 64))
    new = relock.kept(made(2, other), old)
    assert new == made(1, other, *packages)
    (difference,) = locks.differences(old, new)
    assert difference.startswith("~ installer keystone-install 1: same version, other bytes")


def test_definition_without_packages_resolves_only_installer(file: Path) -> None:
    bare = relock.without_packages(recipe.load(file).definition())
    assert bare.installer
    assert (bare.debs, bare.modules) == ((), ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"packages": ("chrony", "tmux")}, {"tmux is not locked"}),
        ({"suite": "forky"}, {"chrony is not locked", "linux-image-amd64 is not locked"}),
        ({"modules": ("zfs", "wireguard")}, {"wireguard is not locked"}),
    ],
    ids=["package", "suite", "modules"],
)
def test_recipe_with_package_not_locked_refused(
    file: Path, change: dict[str, Any], expected: set[str]
) -> None:
    wanted = recipe.load(file)
    old = made(1, OURS, *every(wanted))
    with pytest.raises(ConfigurationError) as error:
        relock.require_packages(old, replace(wanted, **change))
    assert expected <= {mistake.text for mistake in error.value.mistakes}
    assert error.value.hint == "lock without --keep-packages"


def test_package_locked_for_tools_only_named(file: Path) -> None:
    """The groups are two trees: a package locked in one of them is missing in the other."""
    wanted = recipe.load(file)
    old = made(1, OURS, *every(wanted))
    with pytest.raises(ConfigurationError) as error:
        relock.require_packages(old, replace(wanted, packages=("chrony", "xorriso")))
    assert [str(mistake) for mistake in error.value.mistakes] == [
        "trixie, group image: xorriso is not locked"
    ]
