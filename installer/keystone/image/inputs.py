"""What every format of an image is put together from."""

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
class Pieces:
    """tree: the system's. tools: what builds. boot: the folder of boot.boot_files."""

    materials: Materials
    recipe: Recipe
    tools: Tree
    tree: Tree
    system: System
    boot: Path
