"""Locks of a recipe, without resolving it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keystone.bundle.model import Digest, Item
from keystone.packager.lock import Lock, LockedBlob

if TYPE_CHECKING:
    from keystone.image.recipe import Recipe

HEAD = """\
apiVersion: keystone/v1alpha1
kind: ImageRecipe
metadata: {name: x}
spec:
  version: 1
  suite: trixie
  packages: [chrony]
"""
RECIPE = f"{HEAD}  kernelModules: [zfs]\n  installer: true\n"
OURS = Item("installer", "keystone-install", "1", Digest("1" * 64), 1)


def made(day: int, *items: Item) -> Lock:
    blobs = tuple(
        LockedBlob(item.digest, item.size, f"built:{item.name}/6.12")
        if "kernel" in item.labels
        else LockedBlob(item.digest, item.size, f"local:{item.name}")
        for item in items
    )
    return Lock("x", 1, datetime(2026, 1, day, tzinfo=UTC), 30, ("amd64",), items, blobs)


def deb(number: int, name: str, groups: str, **labels: str) -> Item:
    labels = {"suite": "trixie", "groups": groups, "architecture": "amd64", **labels}
    return Item("deb", name, "1", Digest(f"{number:064x}"), 1, labels)


def every(wanted: Recipe) -> list[Item]:
    """Items for everything that a lock of this recipe must have."""
    groups = wanted.definition().debs[0].groups
    names = sorted({name for names in groups.values() for name in names})
    found = [
        deb(100 + number, name, ",".join(group for group in groups if name in groups[group]))
        for number, name in enumerate(names)
    ]
    return [*found, deb(99, "zfs", "seed", kernel="6.12")]
