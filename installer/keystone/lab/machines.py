"""Machines of the lab: started, found again, reached by ssh, cut off, removed.

What is on the host's disk is the state: a folder for each machine, with the files of `qemu.Files`.
A machine runs when the process named in its pid file is a QEMU of that name; nothing else is ever
killed. Starting what runs does nothing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError, RefusedError
from keystone.lab import base, network, qemu, settings
from keystone.run import Host, daemon, run
from keystone.turns import only_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keystone.lab.settings import LabSettings, MachineSettings

SSH_SECONDS = 900
"""Four machines that start together under emulation on two processors need three minutes each."""
CONNECT_SECONDS = 30
STOP_SECONDS = 120
"""An emulated machine with a kubelet takes its time to shut down."""
LOST_TIMER = b"kthread timer wakeup didn't happen"
"""What Linux says of a processor whose timer interrupts stay away (rcu stall). Seen once, with two
emulated processors on a busy host; the machine had not come up nine minutes later."""
AT_ONCE = {True: 8, False: 2}
"""Machines that start side by side, with KVM and without."""


@dataclass(frozen=True)
class Status:
    """What `lab status` says of one machine; pid 0 when it does not run."""

    name: str
    address: str
    pid: int
    accelerator: str
    memory: str
    vcpus: int
    serials: tuple[str, str]
    console: str


class Machine:
    """One machine, whether it runs or not."""

    def __init__(self, lab: Lab, wanted: MachineSettings) -> None:
        self._lab = lab
        self.settings = wanted
        self.name = wanted.name
        sockets = Path("/run/keystone-lab") / lab.settings.name
        self.files = qemu.Files(
            lab.folder / "machines" / wanted.name, sockets / f"{wanted.name}.qmp"
        )

    def host(self) -> Host:
        """The machine as the rest of Keystone sees it; ssh runs inside the lab's network."""
        return Host(
            name=self.name,
            address=str(self.settings.address),
            key_file=str(self._lab.key),
            known_hosts=str(self.files.folder / "known_hosts"),
            options=("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
            prefix=network.prefix(self._lab.settings),
        )

    def pid(self) -> int:
        """Process id of this machine's QEMU, 0 when it does not run."""
        return self._process()[0]

    def start(self, *, usb: Path | None = None) -> None:
        """Start QEMU unless it runs. usb: a read-only stick that is plugged from the start."""
        if self.pid():
            return
        self._make_files()
        network.plug(self._lab.settings, qemu.tap(self.settings))
        argv = qemu.command(
            self._lab.settings,
            self.settings,
            self.files,
            public_key=self._lab.key.with_suffix(".pub").read_text(),
            kvm=self._lab.kvm,
            usb=usb,
        )
        inside = network.prefix(self._lab.settings)
        daemon([*inside, *argv], log_file=self.files.qemu_log, pid_file=self.files.pid)

    def wait_ssh(self, *, seconds: float = SSH_SECONDS) -> float:
        """Wait until the machine runs a program for us; returns how many seconds that took.

        A machine whose emulator lost a timer while it started is reset, once, and that is said.
        Raises HostError with the end of the console when QEMU ends or time runs out.
        """
        start = time.monotonic()
        host, seen, resets = self.host(), _size(self.files.console), 0
        while time.monotonic() - start < seconds:
            # QEMU has its name on the command line a moment after it was started: look twice.
            if not self.pid() and not _becomes(lambda: bool(self.pid()), 2):
                raise HostError(
                    f"{self.name}: QEMU ended\n{_tail(self.files.qemu_log)}",
                    hint=f"its console: {self.files.console}",
                )
            try:
                host.run(["true"], timeout=2 * CONNECT_SECONDS)
            except HostError:
                if not resets and LOST_TIMER in _since(self.files.console, seen):
                    log.warn(f"{self.name}: its emulator lost a timer; it is reset")
                    resets += 1
                    self.reset()
                time.sleep(1)
            else:
                return time.monotonic() - start
        raise HostError(
            f"{self.name}: no ssh after {seconds:.0f} s; its console ends with\n"
            f"{_tail(self.files.console)}",
            hint=f"the whole console: {self.files.console}",
        )

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 600) -> str:
        """Run a program on the machine and return what it printed."""
        return self.host().run(argv, check=check, timeout=timeout).stdout

    def shell_argv(self, command: Sequence[str] = ()) -> list[str]:
        """An ssh for a person: with a terminal, and the person's own TERM."""
        words = ["-tt" if word == "-T" else word for word in self.host().ssh_argv()]
        if not command:
            return words
        return [*self.host().ssh_argv(), "--", shlex.join(command)]

    def copy_to(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Copy one file onto the machine; it has its name there only when it is whole."""
        half = f"{target}.partial"
        script = 'cat >"$1" && chmod "$2" "$1" && sync "$1" && mv "$1" "$3"'
        with source.open("rb") as file:
            argv = ["sh", "-c", script, "copy", half, f"{mode:o}", target]
            self.host().run(argv, stdin=file, timeout=3600)

    def attach_usb(self, image: Path) -> None:
        """Plug a stick into the running machine. It is read-only, whatever the guest tries."""
        with qemu.Qmp(self.files.qmp) as door:
            for verb, arguments in qemu.attach_commands(image.resolve()):
                door.ask(verb, arguments)

    def detach_usb(self) -> None:
        """Pull the stick."""
        with qemu.Qmp(self.files.qmp) as door:
            door.ask("device_del", {"id": "stick"})
            door.wait_event("DEVICE_DELETED", "stick")
            door.ask("blockdev-del", {"node-name": "stick-disk"})

    def replug_usb(self, image: Path) -> None:
        """Pull whatever stick is plugged, and plug this one."""
        with qemu.Qmp(self.files.qmp) as door:
            nodes = door.ask("query-named-block-nodes", {"flat": True})
        if any(node.get("node-name") == "stick-disk" for node in nodes):
            self.detach_usb()
        self.attach_usb(image)

    def reset(self) -> None:
        """Press the reset button."""
        with qemu.Qmp(self.files.qmp) as door:
            door.ask("system_reset")

    def power_cut(self) -> None:
        """End QEMU at once, as far from a shutdown as a process can be.

        What QEMU had taken from the guest survives on the host even if the guest had not flushed
        it: an honest power cut of a disk is a replay of what blklogwrites recorded.
        """
        self._kill(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the guest to power off, and end QEMU when it does not do so in time."""
        if self.pid() and self.files.qmp.exists():
            try:
                with qemu.Qmp(self.files.qmp) as door:
                    door.ask("system_powerdown")
            except HostError as error:
                log.warn(f"{self.name}: {error.message}")
        if not _becomes(lambda: not self.pid(), STOP_SECONDS):
            self._kill(signal.SIGTERM)

    def forget(self) -> None:
        """Remove everything the machine ever wrote; the next start is of a new machine."""
        self.power_cut()
        if self.files.folder.exists():
            shutil.rmtree(self.files.folder)

    def status(self) -> Status:
        """What it is and whether it runs."""
        pid, words = self._process()
        return Status(
            name=self.name,
            address=str(self.settings.address),
            pid=pid,
            accelerator=words[words.index("-accel") + 1].partition(",")[0] if pid else "",
            memory=words[words.index("-m") + 1] if pid else "",
            vcpus=self.settings.vcpus,
            serials=self.settings.serials,
            console=str(self.files.console),
        )

    def _process(self) -> tuple[int, list[str]]:
        """Id and words of the process in the pid file, if it is this machine's QEMU."""
        try:
            pid = int(self.files.pid.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return 0, []
        title = f"{self._lab.settings.namespace}-{self.name}"
        return (pid, words) if "-name" in words and title in words else (0, [])

    def _kill(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid:
            os.kill(pid, number)
            if not _becomes(lambda: not self.pid(), STOP_SECONDS):
                raise HostError(f"{self.name}: QEMU (process {pid}) does not end")
        self.files.pid.unlink(missing_ok=True)

    def _make_files(self) -> None:
        files = self.files
        files.folder.mkdir(parents=True, exist_ok=True)
        files.qmp.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.qmp.unlink(missing_ok=True)
        for index in (0, 1):
            if not files.nvme(index).exists():
                with files.nvme(index).open("wb") as file:
                    file.truncate(self._lab.settings.disk_gib << 30)
        if not files.variables.exists():
            shutil.copyfile(qemu.OVMF_VARS, files.variables)
        if not files.system.exists():
            half = files.system.with_suffix(".partial")
            image = self._lab.base.disk
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", half])
            half.rename(files.system)


class Lab:
    """All machines of one lab, their network and their key.

    Needs root: network namespaces, taps, /dev/kvm.
    """

    def __init__(self, wanted: LabSettings | str = "") -> None:
        if isinstance(wanted, str):
            wanted = settings.load(name=wanted)
        self.settings = wanted
        self.folder = settings.cache() / "state" / wanted.name
        self.key = self.folder / "id_ed25519"

    @cached_property
    def base(self) -> base.BaseImage:
        """The base image, built on first use."""
        return base.image()

    @cached_property
    def kvm(self) -> bool:
        """Whether machines run on KVM here."""
        return qemu.kvm_works(lambda: self.base.vmlinuz, settings.cache())

    def machine(self, name: str) -> Machine:
        """One machine. Raises UsageError for a name that is not in the lab."""
        return Machine(self, self.settings.machine(name))

    def machines(self, names: Sequence[str] = ()) -> list[Machine]:
        """Those named, or all."""
        return [self.machine(n) for n in names or [m.name for m in self.settings.machines]]

    def up(self, names: Sequence[str] = (), *, fresh: bool = False) -> dict[str, float]:
        """Start machines and wait for their ssh; returns the seconds each start took.

        Machines that run already take no time. fresh: begin with new, empty machines, and, when
        that means all of them, with a new network whose counters are zero. Under emulation two
        start at a time: more only take turns.
        """
        machines = self.machines(names)
        with only_one(self.folder.with_suffix(".lock"), str(self.folder)):
            for machine in machines if fresh else ():
                machine.forget()
            if fresh and not names:
                network.down(self.settings)
            self._prepare(machines)
            with ThreadPoolExecutor(AT_ONCE[self.kvm]) as pool:
                times = list(pool.map(_bring_up, machines))
        return {machine.name: seconds for machine, seconds in zip(machines, times, strict=True)}

    def inventory(self, names: Sequence[str] = ()) -> dict[str, dict[str, str]]:
        """Machines as Ansible's inventory has them, for Molecule and testinfra: host, variables.

        The way into the lab's network is a ProxyCommand, which every ssh program understands.
        """
        way = f"{shlex.join(network.prefix(self.settings))} nc %h %p"
        return {
            machine.name: {
                "ansible_host": str(machine.settings.address),
                "ansible_user": "root",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": (
                    f"-F none -o ProxyCommand='{way}' -o ConnectTimeout={CONNECT_SECONDS} "
                    f"-o UserKnownHostsFile={machine.host().known_hosts} "
                    "-o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
                ),
            }
            for machine in self.machines(names)
        }

    def down(self, *, purge: bool = False) -> None:
        """Stop every machine and remove the network; purge: and all they wrote."""
        with only_one(self.folder.with_suffix(".lock"), str(self.folder)):
            with ThreadPoolExecutor() as pool:
                list(pool.map(Machine.power_cut if purge else Machine.stop, self.machines()))
            network.down(self.settings)
            if purge and self.folder.exists():
                shutil.rmtree(self.folder)

    def _prepare(self, machines: Sequence[Machine]) -> None:
        if os.geteuid() != 0:
            raise RefusedError("the lab makes network namespaces: it needs root", hint="use sudo")
        qemu.check_tools()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            comment = f"keystone lab {self.settings.name}"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", self.key])
        network.up(self.settings)
        if not all(machine.files.system.exists() for machine in machines):
            log.debug(f"base image: {self.base.disk}")


def _bring_up(machine: Machine) -> float:
    if machine.pid():
        machine.wait_ssh()
        return 0.0
    with log.step(f"{machine.name} ({machine.settings.address}) starts"):
        machine.start()
        return machine.wait_ssh()


def _becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _since(path: Path, offset: int) -> bytes:
    """What was added to a log."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _tail(path: Path, lines: int = 15) -> str:
    """The end of a log, for a message."""
    if not path.is_file():
        return "(it said nothing)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
