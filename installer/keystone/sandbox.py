"""Run programs in a tree of files isolated from this machine: namespaces, overlays, no network.

A tree is a stack of folders that overlayfs shows as one; changes of a program go to the topmost.
Mounts, processes and network belong to the namespace, so no mount remains after the work ends, even
by SIGKILL, and nothing can be downloaded. A user without root's rights builds in a user namespace
(user_namespaces(7)) with the user's subordinate ids (subuid(5)).
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import PreflightError
from keystone.run import Result, become, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS = 3600
SPACES = ("--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child")
USER_SPACES = ("--user", "--map-root-user", "--map-auto", "--mount")
ALONE = (
    "unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--kill-child", "--mount-proc", "--",
)  # fmt: skip
"""Command prefix for namespaces that keep this machine's network, for programs that download."""
ALL_IDS = "0 0 4294967295"
"""Content of /proc/self/uid_map outside any user namespace, with single spaces."""
# $1: mount point; $2: the stack, top first, separated by colons; $3: folder that receives changes,
# or ""; $4: an empty folder; $5: options of overlays; then pairs of bind source and name, up to a
# single "--"; then the program.
ENTER = """
root=$1 stack=$2 upper=$3 scratch=$4 options=$5
shift 5
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
mkdir "$scratch/empty" "$scratch/upper" "$scratch/work"
if [ -z "$upper" ]; then
    upper=$scratch/upper work=$scratch/work
else
    work=$upper.work
    mkdir -p "$work"
fi
mount -t overlay -o "${options}lowerdir=$stack,upperdir=$upper,workdir=$work" overlay "$root"
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/mnt"
while [ "$1" != -- ]; do
    mkdir "$root/mnt/$2"
    case $1 in
    tree:*)
        mount -t overlay -o "${options}ro,lowerdir=${1#tree:}:$scratch/empty" overlay "$root/mnt/$2"
        ;;
    *) mount --rbind "$1" "$root/mnt/$2" ;;
    esac
    shift 2
done
shift
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Tree:
    """A stack of folders, the lowest first, all inside `home`."""

    home: Path
    layers: tuple[Path, ...]

    def stack(self) -> str:
        """Return the `lowerdir` of overlayfs, relative to `home`: the top folder first."""
        return ":".join(os.path.relpath(layer, self.home) for layer in reversed(self.layers))

    def over(self, layer: Path) -> Tree:
        """Return this tree with one more folder on top."""
        return Tree(self.home, (*self.layers, layer))


@dataclass(frozen=True)
class Inside:
    """A tree as a program sees it.

    upper: the folder, on the tree's file system, that receives its changes; None to discard them.
    binds: folders of this machine, and read-only trees, by their name in /mnt. env: variables.
    """

    tree: Tree
    upper: Path | None = None
    binds: Mapping[str, Path | Tree] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, argv: Sequence[str], *, data: str | None = None, timeout: float = SECONDS
    ) -> Result:
        """Run a program of the tree, with the tree as its root and no network.

        data: text for standard input. timeout: in seconds. Raises CommandError.
        """
        home = self.tree.home
        root, scratch = home / f"root.{os.getpid()}", home / f"scratch.{os.getpid()}"
        for folder in (root, scratch):
            folder.mkdir(exist_ok=True)
        binds = [
            word for name, outer in self.binds.items()
            for word in (f"tree:{outer.stack()}" if isinstance(outer, Tree) else str(outer), name)
        ]  # fmt: skip
        upper = os.path.relpath(self.upper, home) if self.upper else ""
        try:
            return run(
                [*spaces(), "sh", "-euc", ENTER, "enter", root.name, self.tree.stack(), upper,
                 scratch.name, overlay_options(), *binds, "--", *argv],
                cwd=home, data=data, env=self.env, timeout=timeout,
            )  # fmt: skip
        finally:
            for folder in (root, scratch):
                folder.rmdir()
            if self.upper:
                shutil.rmtree(self.upper.with_name(f"{self.upper.name}.work"), ignore_errors=True)


def spaces() -> list[str]:
    """Return the command prefix that runs a program in new namespaces without network."""
    return ["unshare", *SPACES]


def overlay_options() -> str:
    """Return mount options of overlayfs: in a user namespace it needs `userxattr`, else none."""
    ids = " ".join(Path("/proc/self/uid_map").read_text().split())
    return "" if ids == ALL_IDS else "userxattr,"


def as_root() -> list[str]:
    """Return the command prefix that makes us root of a user namespace; empty if we are root.

    Raises PreflightError when this machine does not allow user namespaces.
    """
    if os.geteuid() == 0:
        return []
    words = ["unshare", *USER_SPACES, "--"]
    tried = run([*words, "true"], check=False)
    if tried.returncode:
        raise PreflightError(
            f"cannot create a user namespace: {tried.stderr.strip()}",
            hint="run this as root; or install uidmap, add this user to /etc/subuid and "
            "/etc/subgid, and allow user namespaces (kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0)",
        )
    return words


def become_root() -> None:
    """Restart this command with the prefix `as_root`. Raises PreflightError."""
    words = as_root()
    if words:
        become([*words, sys.executable, *sys.orig_argv[1:]])


def require() -> None:
    """Raise PreflightError when this machine does not allow new namespaces."""
    tried = run([*spaces(), "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False)
    if tried.returncode:
        raise PreflightError(
            f"cannot create namespaces: {tried.stderr.strip()}",
            hint="run a container with --privileged, or with CAP_SYS_ADMIN and its own mounts",
        )
