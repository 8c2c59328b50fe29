"""Lock a recipe again while keeping the date or the packages of its previous lock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keystone.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystone.bundle.model import Item
    from keystone.image.recipe import Recipe
    from keystone.packager.definition import Definition
    from keystone.packager.lock import Lock, LockedBlob

BUILT = "built:{}/"
"""Prefix of the source of a package with kernel modules (packager/resolve.py)."""


def dated(new: Lock, old: Lock | None) -> Lock:
    """The new lock, with the old one's date if only Keystone itself changed.

    Every file in the image has that date; another date would repeat each step of the build.
    """
    if old is None or _packages(new) != _packages(old):
        return new
    return replace(new, created=old.created)


def _packages(lock: Lock) -> list[tuple[str, str]]:
    return sorted((item.name, str(item.digest)) for item in lock.items if item.kind == "deb")


def without_packages(definition: Definition) -> Definition:
    """The definition reduced to Keystone itself, for a lock that keeps its packages."""
    return replace(definition, debs=(), modules=())


def kept(new: Lock, old: Lock) -> Lock:
    """A lock made from `without_packages`, with the packages and the date of the old lock."""
    items = tuple(item for item in old.items if item.kind != "installer")
    return replace(
        new,
        created=old.created,
        items=(*new.items, *items),
        blobs=(*new.blobs, *_blobs(old, items)),
    )


def require_packages(old: Lock, wanted: Recipe) -> None:
    """Raise ConfigurationError with each package of the recipe that the lock lacks.

    Packages that were removed from the recipe remain in the lock until it is made in full.
    """
    missing = [*_missing(old, wanted)]
    if missing:
        raise ConfigurationError(
            f"the lock of {wanted.name} lacks packages of its recipe", mistakes=missing,
            hint="lock without --keep-packages",
        )  # fmt: skip


def _blobs(lock: Lock, items: tuple[Item, ...]) -> Iterator[LockedBlob]:
    digests = {item.digest for item in items}
    yield from (blob for blob in lock.blobs if blob.digest in digests)


def _missing(old: Lock, wanted: Recipe) -> Iterator[Mistake]:
    here = {
        (group, item.name)
        for item in old.items
        if item.kind == "deb" and item.labels["suite"] == wanted.suite
        for group in item.labels["groups"].split(",")
    }
    for debs in wanted.definition().debs:
        for group, names in debs.groups.items():
            for name in sorted({*names}):
                if (group, name) not in here:
                    yield Mistake(f"{debs.suite}, group {group}", f"{name} is not locked")
    sources = tuple(blob.source for blob in old.blobs)
    for name in wanted.modules:
        if not any(source.startswith(BUILT.format(name)) for source in sources):
            yield Mistake("kernelModules", f"{name} is not locked")
