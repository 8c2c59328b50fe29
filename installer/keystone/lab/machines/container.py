"""Container machines: Debian with systemd as process 1, in its own namespaces, at native speed.

There is no engine and no daemon: unshare(1) of util-linux makes the namespaces, in which
`container.sh` mounts file systems and then becomes systemd. The root is an overlay over the base
tree, which all machines share. A machine is found by its control groups. Their names are written to
disk before the groups are made, so that a later process finds them even if the process that starts
a machine is killed at any moment.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import run
from keystone.ansible.roles.kernel import MODULES
from keystone.errors import HostError, RefusedError
from keystone.lab.machines import base_system, cgroups, machine, network, qemu
from keystone.lab.machines.machine import Machine, Status, becomes

if TYPE_CHECKING:
    from collections.abc import Sequence


SCRIPT = Path(__file__).with_name("container.sh")
START_SECONDS = 60
POWER_OFF = signal.SIGRTMIN + 4
"""systemd(1), "Signals": starts poweroff.target."""
WORDS = (
    "systemd.log_target=console",
    # systemd would wait ten minutes for a serial line that does not exist. A getty would hang up
    # the console, at which nobody logs in.
    "systemd.mask=serial-getty@ttyS0.service",
    "systemd.mask=console-getty.service",
)
V1_WORDS = (
    "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
    "systemd.unified_cgroup_hierarchy=0",
    "systemd.legacy_systemd_cgroup_controller=1",
)
"""systemd 256 and newer refuse a cgroup v1 host without the first two (NEWS of systemd 256). The
last keeps it out of the host's cgroup2 hierarchy, in which the machine has no group."""
FOLDERS = ("upper", "work", "root", "containerd", "media", "lower", "credentials")
MADE_ONCE = ("io.containerd.content.v1.content/blobs/", "/fs/")
"""Paths in containerd's folder of files that never change once they have their names: blobs, and
the files of unpacked layers. A copy may share them."""


def load_modules() -> None:
    """Load the kernel modules on this host that machines need and cannot load themselves.

    Preflight reports modules that are missing. A host without modprobe, itself a container, loads
    none.
    """
    if not shutil.which("modprobe", path=run.environment()["PATH"]):
        return
    for name in MODULES:
        if not Path("/sys/module", name).exists():
            run.run(["modprobe", "--quiet", name], check=False)


class ContainerMachine(Machine):
    """One machine in namespaces. container.sh reads the files in its folder."""

    @property
    def console(self) -> Path:
        """The output of process 1 and the journal."""
        return self.folder / "console.log"

    @cached_property
    def _layout(self) -> cgroups.Layout:
        return cgroups.detect()

    def groups(self) -> tuple[Path, ...]:
        """The machine's control groups, whoever made them; empty before the first start."""
        listed = self.folder / "groups"
        return tuple(map(Path, listed.read_text().splitlines())) if listed.is_file() else ()

    def pid(self) -> int:
        """The host's id of the machine's process 1, found in its groups; 0 without one."""
        for pid in cgroups.processes(self.groups()[:1]):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for line in status.splitlines():
                if line.startswith("NSpid:") and line.split()[1:][1:] == ["1"]:
                    return pid
        return 0

    def start(self) -> None:
        """Make the groups and namespaces, and start systemd in them."""
        if self.pid():
            if not network.plugged(self._place.settings, self.settings):
                network.pair(self._place.settings, self.settings, self.pid())
            return
        self._clear()
        self._make_files()
        words = [*WORDS, *(V1_WORDS if self._layout.version == 1 else ())]
        argv = [
            *("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"),
            *("sh", str(SCRIPT), str(self.folder), f"cgroup{self._layout.version}", *words),
        ]
        # A terminal of its own is the console; script(1) writes its output to a file.
        recorder = ["script", "--quiet", "--flush", "--append", "--command", shlex.join(argv)]
        run.daemon(
            [*recorder, self.console],
            log_file=self.folder / "host.log",
            pid_file=self.folder / "keeper.pid",
        )
        if not becomes(lambda: bool(self.pid()), START_SECONDS):
            raise HostError(f"{self.name}: did not start in {START_SECONDS} s\n{self.complaint()}")
        network.pair(self._place.settings, self.settings, self.pid())

    def carry_in(self, files: Sequence[Path]) -> str:
        """Copy the files into the folder that the machine mounts read-only.

        They are not linked, because root on the machine can make its mounts writable.
        """
        machine.check_stick(files)
        self.pull()
        for source in files:
            run.run(["cp", "--reflink=auto", "--", source, self.folder / "media" / source.name])
        return machine.MEDIA

    def pull(self) -> None:
        """Empty the folder of the stick."""
        for path in (self.folder / "media").iterdir():
            path.unlink()

    def power_cut(self) -> None:
        """Kill process 1; the kernel then kills all other processes of the machine."""
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
            cgroups.freeze(self.groups(), frozen=False)  # frozen processes do not end
        self._clear()

    def stop(self) -> None:
        """Make systemd power off."""
        pid = self.pid()
        if pid:
            cgroups.freeze(self.groups(), frozen=False)
            os.kill(pid, POWER_OFF)
            becomes(lambda: not self.pid(), machine.STOP_SECONDS)
        self.power_cut()

    def paused(self) -> bool:
        """Whether the control groups are frozen."""
        return cgroups.frozen(self.groups())

    def pause(self) -> None:
        """Freeze the control groups."""
        cgroups.freeze(self.groups(), frozen=True)

    def resume(self) -> None:
        """Thaw the control groups."""
        cgroups.freeze(self.groups(), frozen=False)

    def status(self) -> Status:
        """Status of the machine, which shares the host's processors and memory."""
        return Status(
            name=self.name,
            address=str(self.settings.address),
            pid=self.pid(),
            runs_on="container" if self.pid() else "",
            memory="shared",
            vcpus=os.cpu_count() or 1,
            serials=(),
            console=str(self.console),
        )

    def move_disks(self, target: Path) -> None:
        """Move the upper layer, the links to lower layers and containerd's folder to `target`."""
        for name in ("lower", "upper", "containerd"):
            if not (target / name).exists():
                (self.folder / name).rename(target / name)

    def unseal(self, source: Path) -> None:
        """Start over with a new layer above `source`, and with a copy of containerd's folder."""
        for name in ("upper", "work", "lower", "containerd"):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
        for name in ("upper", "work", "lower"):
            (self.folder / name).mkdir(parents=True)
        below = [link.resolve() for link in _numbered(source / "lower")]
        self._set_lower(self.folder / "lower", [source / "upper", *below])
        run.run(["cp", "-al", source / "containerd", self.folder / "containerd"])
        _unshare_what_is_written(self.folder / "containerd")

    def look_while_starting(self, seen: int) -> None:
        """Do nothing: at native speed no start needs help."""

    def complaint(self) -> str:
        """The last output of script(1) and of the console, with unshare and container.sh."""
        return f"{machine.tail(self.folder / 'host.log')}\n{machine.tail(self.console)}"

    def _lower(self) -> list[Path]:
        return [link.resolve() for link in _numbered(self.folder / "lower")]

    def _set_lower(self, folder: Path, layers: Sequence[Path]) -> None:
        for number, layer in enumerate(layers):
            (folder / str(number)).symlink_to(layer)

    def _clear(self) -> None:
        """Remove the control groups of a machine that has ended."""
        cgroups.remove(self.groups())
        if (self.folder / "groups").exists():
            (self.folder / "groups").unlink()

    def _make_files(self) -> None:
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "credentials").chmod(0o700)
        if not self._lower():
            self._set_lower(self.folder / "lower", [base_system.tree()])
        lab = self._place.settings
        keys = self._place.public_key, self._place.host_files(self.name)
        identity = qemu.credentials(lab, self.settings, *keys)
        for name, text in identity.items():
            (self.folder / "credentials" / name).write_text(text)
        (self.folder / "uuid").write_text(str(qemu.machine_uuid(lab, self.settings)))
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        options = [hierarchy.options for hierarchy in self._layout.hierarchies]
        (self.folder / "controllers").write_text("".join(f"{one}\n" for one in options))
        name = f"{lab.namespace}-{self.name}"
        listed = "".join(f"{group}\n" for group in self._layout.groups(name))
        (self.folder / "groups").write_text(listed)
        self._refuse_if_taken()
        cgroups.make(self._layout, name)

    def _refuse_if_taken(self) -> None:
        """Refuse if a lab of this name, of another user or cache folder, has these groups."""
        if taken := cgroups.processes(self.groups()):
            (self.folder / "groups").unlink()
            raise RefusedError(
                f"{self.name}: another lab named {self._place.settings.name} has a machine of this "
                f"name, process {min(taken)}",
                hint="choose another name: --name",
            )


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: int(path.name)) if folder.is_dir() else []


def _unshare_what_is_written(folder: Path) -> None:
    """Replace hard links to files that containerd may write again by copies."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink() or not path.is_file():
                continue
            if not any(part in str(path.relative_to(folder)) for part in MADE_ONCE):
                half = path.with_name(f"{name}.partial")
                shutil.copy2(path, half)
                half.replace(path)
