"""Container machines: Debian with systemd as process 1, in namespaces of its own, at native speed.

No engine and no daemon: util-linux's unshare(1) makes the namespaces, `container.sh` in them mounts
and becomes systemd. Its root is an overlay over the base tree that every machine shares. A machine
is found again by its control groups, whose names are on disk before they are made: whoever starts a
machine may be killed at any moment, and the next one finds all that there is.
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
from keystone.lab import base, cgroups, machine, network, qemu
from keystone.lab.machine import Machine, Status, becomes

if TYPE_CHECKING:
    from collections.abc import Sequence


SCRIPT = Path(__file__).with_name("container.sh")
START_SECONDS = 60
POWER_OFF = signal.SIGRTMIN + 4
"""systemd(1), "Signals": starts poweroff.target."""
WORDS = (
    "systemd.log_target=console",
    # There is no serial line, and systemd would wait for one for ten minutes. Nobody logs in at the
    # console either, and a getty would hang it up.
    "systemd.mask=serial-getty@ttyS0.service",
    "systemd.mask=console-getty.service",
)
V1_WORDS = (
    "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
    "systemd.unified_cgroup_hierarchy=0",
    "systemd.legacy_systemd_cgroup_controller=1",
)
"""systemd 256 and newer refuse a cgroup v1 host without the first two (systemd's NEWS of 256). The
last keeps it out of the host's cgroup2 hierarchy, in which the machine has no group of its own."""
FOLDERS = ("upper", "work", "root", "containerd", "media", "lower", "credentials")
MADE_ONCE = ("io.containerd.content.v1.content/blobs/", "/fs/")
"""Of containerd's folder: files that are never written again once they have their names (blobs, the
files of unpacked layers). A copy may share them."""


def load_modules() -> None:
    """Load on this host what machines use of its kernel and cannot load themselves.

    What is built in, or not there, is left to preflight to say; so is all of it on a host without
    modprobe, which is a container itself.
    """
    if not shutil.which("modprobe", path=run.environment()["PATH"]):
        return
    for name in MODULES:
        if not Path("/sys/module", name).exists():
            run.run(["modprobe", "--quiet", name], check=False)


class ContainerMachine(Machine):
    """One machine in namespaces; its folder is what container.sh reads."""

    @property
    def console(self) -> Path:
        """What process 1 and the journal said."""
        return self.folder / "console.log"

    @cached_property
    def _layout(self) -> cgroups.Layout:
        return cgroups.look()

    def groups(self) -> tuple[Path, ...]:
        """The machine's control groups, of whoever made them; empty before the first start."""
        listed = self.folder / "groups"
        return tuple(map(Path, listed.read_text().splitlines())) if listed.is_file() else ()

    def pid(self) -> int:
        """The process that is number 1 in its own namespace, in one of the machine's groups."""
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
        """Make its groups and namespaces and let systemd start in them."""
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
        # A terminal of its own is the console; script(1) keeps what is said there.
        keeper = ["script", "--quiet", "--flush", "--append", "--command", shlex.join(argv)]
        run.daemon(
            [*keeper, self.console],
            log_file=self.folder / "host.log",
            pid_file=self.folder / "keeper.pid",
        )
        if not becomes(lambda: bool(self.pid()), START_SECONDS):
            raise HostError(f"{self.name}: it does not start\n{self.complaint()}")
        network.pair(self._place.settings, self.settings, self.pid())

    def carry_in(self, files: Sequence[Path]) -> str:
        """Copy the files into the folder that the machine sees read-only.

        No links: root on a machine can make its mounts writable.
        """
        machine.check_stick(files)
        self.pull()
        for source in files:
            run.run(["cp", "--reflink=auto", "--", source, self.folder / "media" / source.name])
        return machine.MEDIA

    def pull(self) -> None:
        """Empty that folder."""
        for path in (self.folder / "media").iterdir():
            path.unlink()

    def power_cut(self) -> None:
        """Kill its process 1, with which the kernel kills all others."""
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
            cgroups.freeze(self.groups(), frozen=False)  # what is frozen does not die
        self._clear()

    def stop(self) -> None:
        """Let systemd power off."""
        pid = self.pid()
        if pid:
            cgroups.freeze(self.groups(), frozen=False)
            os.kill(pid, POWER_OFF)
            becomes(lambda: not self.pid(), machine.STOP_SECONDS)
        self.power_cut()

    def paused(self) -> bool:
        """Whether its groups are frozen."""
        return cgroups.frozen(self.groups())

    def pause(self) -> None:
        """Freeze its control groups."""
        cgroups.freeze(self.groups(), frozen=True)

    def resume(self) -> None:
        """Thaw them."""
        cgroups.freeze(self.groups(), frozen=False)

    def status(self) -> Status:
        """Processors and memory are the host's: nothing is set aside for one machine."""
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
        """Its uppermost layer becomes a lower one. With it goes containerd's folder."""
        for name in ("lower", "upper", "containerd"):
            if not (target / name).exists():
                (self.folder / name).rename(target / name)

    def unseal(self, source: Path) -> None:
        """Above `source` with a new layer, and with a copy of containerd's folder."""
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
        """Nothing: at native speed no start needs help."""

    def complaint(self) -> str:
        """What unshare and container.sh said is on the console as well."""
        return f"{machine.tail(self.folder / 'host.log')}\n{machine.tail(self.console)}"

    def _lower(self) -> list[Path]:
        return [link.resolve() for link in _numbered(self.folder / "lower")]

    def _set_lower(self, folder: Path, layers: Sequence[Path]) -> None:
        for number, layer in enumerate(layers):
            (folder / str(number)).symlink_to(layer)

    def _clear(self) -> None:
        """Remove the groups of a machine that has ended."""
        cgroups.remove(self.groups())
        if (self.folder / "groups").exists():
            (self.folder / "groups").unlink()

    def _make_files(self) -> None:
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "credentials").chmod(0o700)
        if not self._lower():
            self._set_lower(self.folder / "lower", [base.tree()])
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
        self._refuse_another()
        cgroups.make(self._layout, name)

    def _refuse_another(self) -> None:
        """A lab of this name, of another user or cache folder, has groups of the same names."""
        if taken := cgroups.processes(self.groups()):
            (self.folder / "groups").unlink()
            raise RefusedError(
                f"{self.name}: another lab called {self._place.settings.name} has such a machine: "
                f"process {min(taken)}",
                hint="choose another name: --name",
            )


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: int(path.name)) if folder.is_dir() else []


def _unshare_what_is_written(folder: Path) -> None:
    """Give every file of containerd's folder that may be written again an inode of its own."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink() or not path.is_file():
                continue
            if not any(part in str(path.relative_to(folder)) for part in MADE_ONCE):
                half = path.with_name(f"{name}.partial")
                shutil.copy2(path, half)
                half.replace(path)
