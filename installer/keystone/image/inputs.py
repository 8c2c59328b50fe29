"""The inputs that every format of an image is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.image.recipe import Recipe
    from keystone.image.rootfs import Materials
    from keystone.image.squashfs import System
    from keystone.sandbox import Tree


@dataclass(frozen=True)
class Inputs:
    """tree: of the system. tools: tree with the build tools. boot: the folder of uki.boot_files."""

    materials: Materials
    recipe: Recipe
    tools: Tree
    tree: Tree
    system: System
    boot: Path
