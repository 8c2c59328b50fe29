"""A recipe locked again: which parts of the lock before stay, and when they cannot."""

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


def test_another_keystone_alone_does_not_date_the_image_anew() -> None:
    chrony = deb(1, "chrony", "image")
    old = made(1, chrony, OURS)
    assert relock.dated(made(2, chrony), old) == made(1, chrony)
    newer = made(2, replace(chrony, digest=OURS.digest), OURS)
    assert relock.dated(newer, old) == newer
    assert relock.dated(old, None) == old


def test_packages_and_date_are_kept_and_keystone_is_another_one(file: Path) -> None:
    wanted = recipe.load(file)
    packages = every(wanted)
    old = made(1, OURS, *packages)
    relock.require_packages(old, wanted)
    other = replace(OURS, digest=Digest("2" * 64))
    new = relock.kept(made(2, other), old)
    assert new == made(1, other, *packages)
    (said,) = locks.differences(old, new)
    assert said.startswith("~ installer keystone-install 1: same version, other bytes")


def test_nothing_of_packages_is_left_to_ask_for(file: Path) -> None:
    bare = relock.without_packages(recipe.load(file).definition())
    assert bare.installer
    assert (bare.debs, bare.modules) == ((), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"packages": ("chrony", "tmux")}, {"tmux is not locked"}),
        ({"suite": "forky"}, {"chrony is not locked", "linux-image-amd64 is not locked"}),
        ({"modules": ("zfs", "wireguard")}, {"wireguard is not locked"}),
    ],
    ids=["package", "suite", "modules"],
)
def test_a_recipe_that_wants_what_is_not_locked_needs_a_whole_lock(
    file: Path, change: dict[str, Any], said: set[str]
) -> None:
    wanted = recipe.load(file)
    old = made(1, OURS, *every(wanted))
    with pytest.raises(ConfigurationError) as error:
        relock.require_packages(old, replace(wanted, **change))
    assert said <= {mistake.text for mistake in error.value.mistakes}
    assert error.value.hint == "lock without --keep-packages"


def test_a_package_that_tools_have_and_the_image_has_not_is_named(file: Path) -> None:
    """The groups are two trees: to be locked in one of them is not enough."""
    wanted = recipe.load(file)
    old = made(1, OURS, *every(wanted))
    with pytest.raises(ConfigurationError) as error:
        relock.require_packages(old, replace(wanted, packages=("chrony", "xorriso")))
    assert [str(mistake) for mistake in error.value.mistakes] == [
        "trixie, group image: xorriso is not locked"
    ]
