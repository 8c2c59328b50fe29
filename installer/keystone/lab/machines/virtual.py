"""Virtual machines: QEMU with UEFI, NVMe disks and a USB stick, with KVM if it works.

A machine runs if there is a QEMU with its name and its files; no other process is killed. Its pid
file only says where to look first: a killed `lab up` may have started a QEMU and not written it.
"""

from __future__ import annotations

import os
import shutil
import signal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.errors import HostError
from keystone.files import settle
from keystone.lab.machines import base_system, machine, network, qemu
from keystone.lab.machines.disk import usb_stick
from keystone.lab.machines.machine import Machine, Status, becomes
from keystone.run import daemon, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.lab.machines.machine import Place
    from keystone.lab.settings import MachineSettings

LOST_TIMER = b"kthread timer wakeup didn't happen"
"""Linux prints this if a processor gets no timer interrupts (RCU stall). It happened once, with two
emulated processors on a busy host; nine minutes later that machine had not started."""
MOUNT = f"""
set -e
if mountpoint -q {machine.MEDIA}; then umount --lazy {machine.MEDIA}; fi
mkdir -p {machine.MEDIA}
udevadm wait --timeout=300 --initialized=true /dev/disk/by-label/KEYSTONE
mount -o ro /dev/disk/by-label/KEYSTONE {machine.MEDIA}
"""


class VirtualMachine(Machine):
    """One QEMU machine."""

    def __init__(self, place: Place, wanted: MachineSettings, *, kvm: bool) -> None:
        super().__init__(place, wanted)
        self._kvm = kvm
        self._resets = 0
        socket = machine.RUN / place.settings.name / f"{wanted.name}.qmp"
        self.files = qemu.Files(self.folder, socket)

    @property
    def console(self) -> Path:
        """The output of the serial line."""
        return self.files.console

    def pid(self) -> int:
        """Process id of this machine's QEMU, 0 if it does not run."""
        return self._process()[0]

    def start(self) -> None:
        """Start QEMU unless it runs."""
        if self.pid():
            return
        self._make_files()
        network.plug(self._place.settings, network.device(self.settings))
        argv = qemu.command(
            self._place.settings,
            self.settings,
            self.files,
            public_key=self._place.public_key,
            host_key=self._place.host_files(self.name),
            kvm=self._kvm,
        )
        inside = network.prefix(self._place.settings)
        daemon([*inside, *argv], log_file=self.files.qemu_log, pid_file=self.files.pid)

    def look_while_starting(self, seen: int) -> None:
        """Reset the machine, once, if its emulator lost a timer during the start."""
        if not self._resets and LOST_TIMER in machine.since(self.console, seen):
            log.warn(f"{self.name}: the emulator lost a timer: resetting the machine")
            self._resets += 1
            self.reset()

    def carry_in(self, files: Sequence[Path]) -> str:
        """Make a USB stick of the files, plug it in and mount it read-only."""
        machine.check_stick(files)
        self.replug_usb(usb_stick(files, self.folder / "stick.img"))
        self.host().run(["sh", "-c", MOUNT], timeout=900)
        return machine.MEDIA

    def pull(self) -> None:
        """Unplug the stick, if any."""
        if self._stick():
            self.detach_usb()

    def attach_usb(self, image: Path) -> None:
        """Plug a stick into the running machine. QEMU keeps it read-only."""
        with qemu.Qmp(self.files.qmp) as qmp:
            for verb, arguments in qemu.attach_commands(image.resolve()):
                qmp.ask(verb, arguments)

    def detach_usb(self) -> None:
        """Unplug the stick."""
        with qemu.Qmp(self.files.qmp) as qmp:
            qmp.ask("device_del", {"id": "stick"})
            qmp.wait_event("DEVICE_DELETED", "stick")
            qmp.ask("blockdev-del", {"node-name": "stick-disk"})

    def replug_usb(self, image: Path) -> None:
        """Unplug the stick, if any, and plug in this one."""
        self.pull()
        self.attach_usb(image)

    def _stick(self) -> bool:
        with qemu.Qmp(self.files.qmp) as qmp:
            nodes = qmp.ask("query-named-block-nodes", {"flat": True})
        return any(node.get("node-name") == "stick-disk" for node in nodes)

    def reset(self) -> None:
        """Press the reset button."""
        with qemu.Qmp(self.files.qmp) as qmp:
            qmp.ask("system_reset")

    def power_cut(self) -> None:
        """Kill QEMU, without any shutdown of the guest.

        Data that the guest wrote but did not flush survives on the host, unlike in a real power
        failure. To test that, replay the writes that blklogwrites recorded (tests/images).
        """
        self._kill(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the guest to power off, and end QEMU if it does not do so in time."""
        if self.pid() and self.files.qmp.exists():
            try:
                with qemu.Qmp(self.files.qmp) as qmp:
                    qmp.ask("system_powerdown")
            except HostError as error:
                log.warn(f"{self.name}: {error.message}")
        if not becomes(lambda: not self.pid(), machine.STOP_SECONDS):
            self._kill(signal.SIGTERM)

    def paused(self) -> bool:
        """Whether its processors are stopped."""
        with qemu.Qmp(self.files.qmp) as qmp:
            return str(qmp.ask("query-status")["status"]) == "paused"

    def pause(self) -> None:
        """Stop its processors."""
        with qemu.Qmp(self.files.qmp) as qmp:
            qmp.ask("stop")

    def resume(self) -> None:
        """Let its processors continue."""
        with qemu.Qmp(self.files.qmp) as qmp:
            qmp.ask("cont")

    def status(self) -> Status:
        """Status of the machine."""
        pid, words = self._process()
        return Status(
            name=self.name,
            address=str(self.settings.address),
            pid=pid,
            runs_on=words[words.index("-accel") + 1].partition(",")[0] if pid else "",
            memory=words[words.index("-m") + 1] if pid else "",
            vcpus=self.settings.vcpus,
            serials=self.settings.serials,
            console=str(self.files.console),
        )

    def move_disks(self, target: Path) -> None:
        """Move disks and UEFI variables to `target`, as backing files of later overlays (qcow2)."""
        if not (target / self.files.variables.name).exists():
            for path in self.files.disks():
                path.rename(target / path.name)
            half = target / "variables.partial"
            shutil.copyfile(self.files.variables, half)
            settle(half, target / self.files.variables.name)

    def unseal(self, source: Path) -> None:
        """Start over with new overlays over the disks in `source`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.files.disks():
            path.unlink()
        for path in source.iterdir():
            if path.name == self.files.variables.name:
                shutil.copyfile(path, self.files.variables)
            else:
                self._overlay(path, self.folder / f"{path.stem}.qcow2")

    def complaint(self) -> str:
        """The last messages of QEMU itself."""
        return machine.tail(self.files.qemu_log)

    def _overlay(self, below: Path, target: Path) -> None:
        half = target.with_suffix(".partial")
        kind = below.suffix.removeprefix(".")
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", kind, half])
        settle(half, target)

    def _process(self) -> tuple[int, list[str]]:
        """Id and command line of this machine's QEMU; 0 if it does not run."""
        try:
            known = [int(self.files.pid.read_text())]
        except (FileNotFoundError, ValueError):
            known = []
        others = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        title = f"{self._place.settings.namespace}-{self.name}"
        for pid in chain(known, others):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            own = any(str(self.files.folder) in word for word in words)
            if own and "-name" in words and title in words:
                return pid, words
        return 0, []

    def _kill(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid:
            os.kill(pid, number)
            if not becomes(lambda: not self.pid(), machine.STOP_SECONDS):
                raise HostError(
                    f"{self.name}: QEMU (process {pid}) did not end in {machine.STOP_SECONDS} s"
                )
        self.files.pid.unlink(missing_ok=True)

    def _make_files(self) -> None:
        files = self.files
        files.folder.mkdir(parents=True, exist_ok=True)
        files.qmp.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.qmp.unlink(missing_ok=True)
        for index in (0, 1):
            if not files.nvme(index).exists():
                with files.nvme(index).open("wb") as file:
                    file.truncate(self._place.settings.disk_gib << 30)
        if not files.variables.exists():
            shutil.copyfile(qemu.OVMF_VARS, files.variables)
        if not files.system.exists():
            self._overlay(base_system.image().disk, files.system)
