"""Apply roles in the tree of an image while it is built: the same roles that converge a host.

The lock's keystone-install runs them with the tree's own Python. So the program that converges the
tree is the one in the image, and the markers are those of the image's own roles.
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
"""Increased when this module makes a different tree from the same input."""
RUN = """
python3 -B "$1" --log-format=json image converge --logs=/mnt/log
rm -rf /root/.ansible /var/lib/libuuid/clock.txt
"""
"""Removes what Ansible leaves: its folder, found by passwd(5) and not by HOME, and the clock file
of libuuid (uuid_generate(3)), which contains the MAC of a network card."""
HOME = "/tmp"  # noqa: S108 the tree's, in memory
"""Folder for Ansible's files; it disappears with the namespace."""


def roles(materials: Materials, tree: Tree, recipe: Recipe, kernel: Path) -> Tree:
    """Add a layer with the recipe's roles applied. kernel: the folder of rootfs.initramfs.

    Raises HostError with Ansible's error messages if a role fails.
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
        # The tree has the program unpacked and compiled; without it, unpack in memory.
        program, unpacked = rootfs.PROGRAM, rootfs.UNPACKED
        if not recipe.installer:
            program, unpacked = f"/mnt/blobs/{item.digest.hex}", f"{HOME}/keystone"
        env = {**materials.env, "HOME": HOME, "SHIV_ROOT": unpacked}
        try:
            Inside(tree, upper, binds, env).run(
                ["sh", "-euc", RUN, "roles", program], data=_as_json(recipe.roles, release)
            )
        except CommandError as error:
            raise HostError(
                f"{title} in the tree of image {recipe.name}: {_errors(error)}",
                hint=f"correct spec.roles of the recipe; Ansible's log is in {logs}",
            ) from error
        steps.remove(logs)
        rootfs.clamp(upper, materials)

    folder = steps.step(step_name(tree, item, recipe.roles, release), title, make)
    return tree.over(folder / "tree")


def step_name(tree: Tree, installer: Item, wanted: Sequence[Role], release: str) -> str:
    """Name of the step, from the tree, the program with its roles, and the roles' variables."""
    return steps.key(
        "roles", VERSION, RUN, tree.stack(), str(installer.digest), _as_json(wanted, release)
    )


def here(text: str, logs: Path) -> None:
    """Apply roles to the machine, or the tree, in which this process runs. Raises HostError.

    text: the output of `_as_json`. logs: folder for Ansible's log.
    """
    playbook.converge_here("image", "tree", dict(json.loads(text)), title="roles", logs=logs)


def _as_json(wanted: Sequence[Role], release: str) -> str:
    """Roles in their order with their variables, as JSON."""
    return json.dumps([[role.name, role.on(release)] for role in wanted], sort_keys=True)


def _errors(error: CommandError) -> str:
    """Error messages from the log lines of `keystone-install --log-format=json`."""
    lines = error.result.stderr.splitlines() if error.result else []
    entries = [json.loads(line) for line in lines if line.startswith('{"time"')]
    found = [entry["message"] for entry in entries if entry["level"] == "error"]
    return "\n".join(found).removeprefix("error: ") or "\n".join(lines[-5:]) or error.message
