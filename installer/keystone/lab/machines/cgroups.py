"""Control groups of container machines, on hosts with cgroup v1 or v2.

A machine has one group in each hierarchy of the host. On cgroup v1 it is below the group of this
process, so that our limits apply to it. On v2 it is below the root, since only the root may have
both processes and child groups. Sources: cgroups(7), the kernel's admin-guide/cgroup-v2.rst.
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
"""Controllers that kubelet and runc need."""
_OPTIONS = {"rw", "ro", "xattr", "clone_children", "nsdelegate", "memory_recursiveprot"}
END_SECONDS = 60


@dataclass(frozen=True)
class Hierarchy:
    """One hierarchy: "2", or on v1 its mount options ("cpu,cpuacct", "name=systemd").

    parent: the folder in which the groups of machines are made.
    """

    options: str
    parent: Path


@dataclass(frozen=True)
class Layout:
    """The hierarchies of a host. version: of cgroups, 1 or 2."""

    version: int
    hierarchies: tuple[Hierarchy, ...]

    def groups(self, name: str) -> tuple[Path, ...]:
        """The folders of a machine's groups, in the order of the hierarchies."""
        return tuple(hierarchy.parent / name for hierarchy in self.hierarchies)


def detect() -> Layout:
    """Observe this host. Raises PreflightError if container machines cannot run on it."""
    mounts, own = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    return layout(mounts, own, exists=Path.is_dir)


def layout(mountinfo: str, own: str, *, exists: Callable[[Path], bool]) -> Layout:
    """Parse /proc/self/mountinfo and /proc/self/cgroup (proc(5)).

    exists: whether a folder exists; in a container our own group is not below the mount. Raises
    PreflightError if there is neither cgroup v2 nor all needed controllers of v1.
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
    """Make the groups of a machine and prepare them for its first process."""
    made = layout.groups(name)
    for hierarchy, group in zip(layout.hierarchies, made, strict=True):
        if layout.version == 2:  # noqa: PLR2004 its name
            _delegate(hierarchy.parent)
        group.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            # A new group has these empty, and no process may enter it then.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((hierarchy.parent / setting).read_text())
        if "devices" in hierarchy.options.split(","):
            # mknod (m) stays allowed, because runc allows it to each of its containers.
            (group / "devices.deny").write_text("b *:* rw")
    return made


def _delegate(parent: Path) -> None:
    """Enable the controllers that kubelet needs in the children of the group."""
    there = (parent / "cgroup.controllers").read_text().split()
    try:
        for name in V2_CONTROLLERS:
            if name in there:
                (parent / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError as error:
        raise PreflightError(
            f"{parent}: cannot delegate controllers: {error.strerror}",
            hint="run the lab where the root of cgroup v2 is writable: on the host, or in a "
            "container whose processes are in a group below its root",
        ) from error


def processes(groups: Iterable[Path]) -> frozenset[int]:
    """Ids of all processes in the groups and the groups below them."""
    found: set[int] = set()
    for group in groups:
        for folder in _leaves_first(group):
            try:
                listed = (folder / "cgroup.procs").read_text()
            except OSError:  # the group was removed meanwhile
                continue
            found.update(int(word) for word in listed.split())
    return frozenset(found)


def _leaves_first(group: Path) -> Iterator[Path]:
    """The groups below, then the group itself; os.walk tolerates groups removed meanwhile."""
    return (Path(folder) for folder, _, _ in os.walk(group, topdown=False))


def processor_seconds(groups: Iterable[Path]) -> float:
    """Processor time of the processes in the groups, in seconds."""
    for group in groups:
        if (group / "cpuacct.usage").exists():
            return int((group / "cpuacct.usage").read_text()) / 1e9
        if (group / "cpu.stat").exists() and (group / "cgroup.freeze").exists():
            stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            return int(stat["usage_usec"]) / 1e6
    return 0.0


def frozen(groups: Iterable[Path]) -> bool:
    """Whether the processes of the groups are frozen."""
    for group in groups:
        if (group / "cgroup.freeze").exists():
            return "frozen 1" in (group / "cgroup.events").read_text().splitlines()
        if (group / "freezer.state").exists():
            return (group / "freezer.state").read_text().strip() != "THAWED"
    return False


def freeze(groups: Sequence[Path], *, frozen: bool) -> None:
    """Freeze or thaw all processes of the groups, and wait until that is done.

    Raises HostError if the kernel does not report it in time.
    """
    deadline = time.monotonic() + END_SECONDS
    for group in groups:
        if (group / "cgroup.freeze").exists():
            (group / "cgroup.freeze").write_text(str(int(frozen)))
            state, wanted = group / "cgroup.events", f"frozen {int(frozen)}"
        elif (group / "freezer.state").exists():
            state, wanted = group / "freezer.state", "FROZEN" if frozen else "THAWED"
            state.write_text(wanted)
        else:
            continue
        while wanted not in state.read_text().splitlines():
            if time.monotonic() > deadline:
                raise HostError(f"timed out after {END_SECONDS} s: {state} is not {wanted}")
            time.sleep(0.02)


def remove(groups: Iterable[Path]) -> None:
    """Remove the groups and all groups below them, once their processes have ended.

    Raises HostError with the processes that are still in them after END_SECONDS.
    """
    deadline = time.monotonic() + END_SECONDS
    for group in groups:
        while group.is_dir() and not _removed(group):
            if time.monotonic() > deadline:
                left = sorted(processes([group]))
                raise HostError(
                    f"timed out after {END_SECONDS} s: {group} still has processes: {left}"
                )
            time.sleep(0.02)


def _removed(group: Path) -> bool:
    """Remove groups from the leaves up, by rmdir only; False if one is in use."""
    for folder in _leaves_first(group):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY):
                raise
            return False
    return True
