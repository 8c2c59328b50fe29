"""Control groups of container machines, of cgroup v1 and v2: which of them a host has, by looking.

A machine has one group in each hierarchy of the host. On cgroup v1 it lies below the group that we
are in ourselves, so that limits set for us hold for it; on v2 below the root, where alone a group
may have both processes and children. Sources: cgroups(7), the kernel's admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.errors import HostError, PreflightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
V1_NEEDED = frozenset({"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"})
"""What kubelet and runc ask for."""
_OPTIONS = {"rw", "ro", "xattr", "clone_children", "nsdelegate", "memory_recursiveprot"}
END_SECONDS = 60


@dataclass(frozen=True)
class Hierarchy:
    """One hierarchy: "2", or on v1 its mount options ("cpu,cpuacct", "name=systemd").

    parent: the folder in which machines get their groups.
    """

    options: str
    parent: Path


@dataclass(frozen=True)
class Layout:
    """What a host has. version: 1 or 2."""

    version: int
    hierarchies: tuple[Hierarchy, ...]

    def groups(self, name: str) -> tuple[Path, ...]:
        """The folders of a machine's groups, in the order of the hierarchies."""
        return tuple(hierarchy.parent / name for hierarchy in self.hierarchies)


def look() -> Layout:
    """What this host has. Raises PreflightError when container machines cannot run on it."""
    mounts, own = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    return layout(mounts, own, exists=Path.is_dir)


def layout(mountinfo: str, own: str, *, exists: Callable[[Path], bool]) -> Layout:
    """Out of /proc/self/mountinfo and /proc/self/cgroup (proc(5)).

    exists: whether a folder is there: in a container our own group is not below the mount.
    Raises PreflightError when there is neither cgroup v2 nor all that is needed of v1.
    """
    mounts = [_mount(line) for line in mountinfo.splitlines() if " - cgroup" in line]
    first = [place for kind, place, _ in mounts if kind == "cgroup2"]
    v1 = [(place, options) for kind, place, options in mounts if kind == "cgroup"]
    if first and not v1:
        return Layout(2, (Hierarchy("2", first[0]),))
    paths = {names: path for _, names, path in (line.split(":", 2) for line in own.splitlines())}
    found = []
    for place, options in v1:
        group = place / paths.get(options, "/").lstrip("/")
        found.append(Hierarchy(options, group if exists(group) else place))
    missing = V1_NEEDED - {name for one in found for name in one.options.split(",")}
    if missing:
        raise PreflightError(
            f"control groups: this host has no {', '.join(sorted(missing))}",
            hint="container machines need cgroup v2, or these controllers of v1; "
            "`lab up --kind virtual` needs neither",
        )
    return Layout(1, tuple(found))


def _mount(line: str) -> tuple[str, Path, str]:
    """Type, mount point and the controllers of one line of mountinfo."""
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    names = [w for w in options.split(",") if w not in _OPTIONS and "release_agent" not in w]
    return kind, Path(before.split(" ")[4]), ",".join(names)


def make(layout: Layout, name: str) -> tuple[Path, ...]:
    """Make a machine's groups, ready for its first process."""
    made = layout.groups(name)
    for hierarchy, group in zip(layout.hierarchies, made, strict=True):
        if layout.version == 2:  # noqa: PLR2004 its name
            _delegate(hierarchy.parent)
        group.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            # Empty at first, and no process may enter it so.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((hierarchy.parent / setting).read_text())
        if "devices" in hierarchy.options.split(","):
            # Not mknod (m): runc allows that to each of its containers, and would be refused.
            (group / "devices.deny").write_text("b *:* rw")
    return made


def _delegate(parent: Path) -> None:
    """Let children of the group have the controllers that kubelet asks for."""
    there = (parent / "cgroup.controllers").read_text().split()
    try:
        for name in V2_CONTROLLERS:
            if name in there:
                (parent / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError as error:
        raise PreflightError(
            f"{parent}: controllers cannot be handed on: {error.strerror}",
            hint="run the lab where cgroup v2's root is writable: on the host, or in a container "
            "whose processes lie in a group below its root",
        ) from error


def processes(groups: Iterable[Path]) -> frozenset[int]:
    """Ids of all processes in the groups and below them."""
    found: set[int] = set()
    for group in groups:
        for folder in _leaves_first(group):
            try:
                listed = (folder / "cgroup.procs").read_text()
            except OSError:  # a group that ends while we look
                continue
            found.update(int(word) for word in listed.split())
    return frozenset(found)


def _leaves_first(group: Path) -> Iterator[Path]:
    """The groups below and then the group itself; os.walk bears with those that end meanwhile."""
    return (Path(folder) for folder, _, _ in os.walk(group, topdown=False))


def processor_seconds(groups: Iterable[Path]) -> float:
    """What the processes of the groups have taken of the processors, in seconds."""
    for group in groups:
        if (group / "cpuacct.usage").exists():
            return int((group / "cpuacct.usage").read_text()) / 1e9
        if (group / "cpu.stat").exists() and (group / "cgroup.freeze").exists():
            said = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            return int(said["usage_usec"]) / 1e6
    return 0.0


def frozen(groups: Iterable[Path]) -> bool:
    """Whether the processes of the groups are stopped."""
    for group in groups:
        if (group / "cgroup.freeze").exists():
            return "frozen 1" in (group / "cgroup.events").read_text().splitlines()
        if (group / "freezer.state").exists():
            return (group / "freezer.state").read_text().strip() != "THAWED"
    return False


def freeze(groups: Sequence[Path], *, frozen: bool) -> None:
    """Stop every process of the groups where it is, or let them go on; returns when it is done.

    Raises HostError when the kernel does not say so in time.
    """
    deadline = time.monotonic() + END_SECONDS
    for group in groups:
        if (group / "cgroup.freeze").exists():
            (group / "cgroup.freeze").write_text(str(int(frozen)))
            said, wanted = group / "cgroup.events", f"frozen {int(frozen)}"
        elif (group / "freezer.state").exists():
            said, wanted = group / "freezer.state", "FROZEN" if frozen else "THAWED"
            said.write_text(wanted)
        else:
            continue
        while wanted not in said.read_text().splitlines():
            if time.monotonic() > deadline:
                raise HostError(f"{said}: not {wanted} after {END_SECONDS} s")
            time.sleep(0.02)


def remove(groups: Iterable[Path]) -> None:
    """Remove the groups and all below them, once their processes have ended.

    Raises HostError naming what is still at work in them.
    """
    deadline = time.monotonic() + END_SECONDS
    for group in groups:
        while group.is_dir() and not _removed(group):
            if time.monotonic() > deadline:
                left = sorted(processes([group]))
                raise HostError(f"{group}: does not end; processes in it: {left}")
            time.sleep(0.02)


def _removed(group: Path) -> bool:
    """Remove from the leaves up (rmdir is all that a group knows); False when one is in use."""
    for folder in _leaves_first(group):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY):
                raise
            return False
    return True
