"""Roles in the tree of an image: the ones that converge a live host, run in it while it is built.

The lock's keystone-install runs them, with the tree's own Python: what converges the tree is what
the image has inside, and the markers that it leaves are those of its own roles.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keystone.ansible import playbook
from keystone.errors import HostError
from keystone.image import rootfs, steps
from keystone.packager.sources import cache
from keystone.run import CommandError
from keystone.sandbox import Inside, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keystone.bundle.model import Item
    from keystone.image.recipe import Recipe
    from keystone.image.recipe_roles import Role
    from keystone.image.rootfs import Materials

VERSION = 1
"""Raised when this module makes another tree of the same input."""
RUN = """
python3 -B "$1" --log-format=json image converge --logs=/mnt/log
rm -rf /root/.ansible /var/lib/libuuid/clock.txt
"""
"""What Ansible leaves goes: its folder by passwd(5), not by HOME, and libuuid's clock
(uuid_generate(3)), for it names itself by a network card."""
HOME = "/tmp"  # noqa: S108 the tree's, in memory
"""Where Ansible keeps its files: gone with the namespace."""


def roles(materials: Materials, tree: Tree, recipe: Recipe, kernel: Path) -> Tree:
    """The recipe's roles on top. kernel: the folder that rootfs.initramfs made.

    Raises HostError with Ansible's words when a role fails.
    """
    if not recipe.roles:
        return tree
    item, release = materials.installer, (kernel / "release").read_text()
    title = f"roles {', '.join(role.name for role in recipe.roles)}"

    def make(half: Path) -> None:
        materials.fetch([item])
        upper, logs = half / "tree", half / "log"
        for folder in (upper, logs):
            folder.mkdir()
        binds = {"blobs": cache.path(item.digest).parent, "log": logs}
        # In the tree it is unpacked and compiled already; else that happens in memory.
        program, unpacked = rootfs.PROGRAM, rootfs.UNPACKED
        if not recipe.installer:
            program, unpacked = f"/mnt/blobs/{item.digest.hex}", f"{HOME}/keystone"
        env = {**materials.env, "HOME": HOME, "SHIV_ROOT": unpacked}
        try:
            Inside(tree, upper, binds, env).run(
                ["sh", "-euc", RUN, "roles", program], data=_written(recipe.roles, release)
            )
        except CommandError as error:
            raise HostError(
                f"{title} in the tree of image {recipe.name}: {_said(error)}",
                hint=f"correct spec.roles of the recipe; Ansible's own log is in {logs}",
            ) from error
        steps.remove(logs)
        rootfs.clamp(upper, materials)

    folder = steps.step(step_name(tree, item, recipe.roles, release), title, make)
    return tree.over(folder / "tree")


def step_name(tree: Tree, installer: Item, wanted: Sequence[Role], release: str) -> str:
    """What the step depends on: the tree below, the program with its roles, what they are told."""
    return steps.key(
        "roles", VERSION, RUN, tree.stack(), str(installer.digest), _written(wanted, release)
    )


def here(text: str, logs: Path) -> None:
    """Apply roles on the machine, or in the tree, that we run in. text: as `_written` has it.

    Raises HostError.
    """
    playbook.converge_here("image", "tree", dict(json.loads(text)), title="roles", logs=logs)


def _written(wanted: Sequence[Role], release: str) -> str:
    """Roles in their order with their variables, as JSON."""
    return json.dumps([[role.name, role.on(release)] for role in wanted], sort_keys=True)


def _said(error: CommandError) -> str:
    """The error messages among the lines that `keystone-install --log-format=json` wrote."""
    lines = error.result.stderr.splitlines() if error.result else []
    news = [json.loads(line) for line in lines if line.startswith('{"time"')]
    found = [entry["message"] for entry in news if entry["level"] == "error"]
    return "\n".join(found).removeprefix("error: ") or "\n".join(lines[-5:]) or error.message
