"""A machine that starts from our images: QEMU with real firmware, and a person at its serial line.

Each wait names its condition; deadlines are generous, because machines are emulated.
"""

from __future__ import annotations

import queue
import re
import shutil
import signal
import socket
import threading
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyte
import pytest

from keystone.lab.machines import qemu
from keystone.run import bound, spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 900
"""Timeout in seconds for what a machine does by itself: emulation is about ten times slower."""
ROWS, COLUMNS = 24, 80
SECURE_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")


@dataclass(frozen=True)
class Disk:
    """An NVMe disk: its file (raw), its serial number, and its sectors' size in bytes.

    log: a sparse file that records all writes to it (writes.py), or None.
    """

    file: Path
    serial: str
    sector: int = 512
    log: Path | None = None

    def words(self, name: str) -> list[str]:
        """QEMU's options for the drive of this name."""
        if self.log is None:
            options = "format=raw,cache=unsafe,discard=unmap"
            return ["-drive", f"if=none,id={name},{options},file={self.file}"]
        return [
            "-blockdev", f"driver=file,node-name={name}-file,filename={self.file}",
            "-blockdev", f"driver=file,node-name={name}-log,filename={self.log}",
            "-blockdev", f"driver=blklogwrites,node-name={name},file={name}-file,log={name}-log",
        ]  # fmt: skip


@dataclass
class Machine(AbstractContextManager["Machine"]):
    """A machine that can be started repeatedly on the same disks.

    firmware: uefi, bios or secure (UEFI that checks signatures; `variables` has the keys). cd, usb:
    media. late: a USB disk that firmware does not start from. tpm: a software TPM 2.0. prefix:
    words before QEMU's command. screen: of the serial line. unread: output of the serial line since
    the last match of `hear`.
    """

    folder: Path
    serial: str
    firmware: str = "uefi"
    memory: int = 1024
    disks: Sequence[Disk] = ()
    cd: Path | None = None
    usb: Sequence[Path] = ()
    variables: Path = qemu.OVMF_VARS
    extra: Sequence[str] = ()
    mac: str = "52:54:00:00:00:11"
    network: Sequence[str] = ("-nic", "user,restrict=on,model=virtio-net-pci,mac={mac}")
    tpm: bool = False
    prefix: Sequence[str] = ()
    late: Path | None = None
    unread: str = ""
    started: float = 0.0
    screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(COLUMNS, ROWS))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._line: socket.socket | None = None
        self._received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Power on."""
        self.folder.joinpath("serial").unlink(missing_ok=True)
        self.screen.reset()
        self.unread = ""
        self._stream = pyte.ByteStream(self.screen)
        if self.tpm:
            self._stack.enter_context(self._tpm())
        process = self._stack.enter_context(
            spawned(bound(self.command()), log_file=self.folder / "qemu.log")
        )
        self._process = process
        self.started = time.monotonic()
        self._line = self._stack.enter_context(self._connect())
        self._received = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._line, self._received), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Power off, at once."""
        self._stack.close()
        self._line = None

    def command(self) -> list[str]:
        """The command line of QEMU."""
        words = [
            *self.prefix,
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,smm=on" if self.firmware == "secure" else "q35",
            "-global", "ICH9-LPC.noreboot=off",  # enable the watchdog of the chipset
            *qemu.accelerator(kvm=False), "-cpu", qemu.EMULATED_CPU,
            "-smp", "2", "-m", f"{self.memory}M", "-vga", "std",
            "-smbios", f"type=1,serial={self.serial}",
            "-chardev", f"socket,id=line,path={self.folder / 'serial'},server=on,wait=off",
            "-serial", "chardev:line",
            "-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off",
            "-device", "virtio-rng-pci", "-device", "qemu-xhci,id=xhci",
            *(word.format(mac=self.mac) for word in self.network),
        ]  # fmt: skip
        if self.tpm:
            words += [
                "-chardev", f"socket,id=tpm,path={self.folder / 'tpm.socket'}",
                "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
            ]  # fmt: skip
        if self.firmware != "bios":
            own = self.folder / "efivars.fd"
            if not own.exists():
                shutil.copyfile(self.variables, own)
            code = SECURE_CODE if self.firmware == "secure" else qemu.OVMF_CODE
            words += [
                "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
                "-drive", f"if=pflash,format=raw,unit=1,file={own}",
            ]  # fmt: skip
            if self.firmware == "secure":
                words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        if self.cd:
            words += [
                "-drive", f"if=none,id=cd,format=raw,readonly=on,{_kept(self.cd)}file={self.cd}",
                "-device", "ide-cd,drive=cd,bootindex=1",
            ]  # fmt: skip
        for number, file in enumerate(self.usb):
            index, drive = 2 + number, f"drive=usb{number}"
            words += [
                "-drive", f"if=none,id=usb{number},format=raw,{_kept(file)}file={file}",
                "-device", f"usb-storage,id=usb{number},{drive},removable=on,bootindex={index}",
            ]  # fmt: skip
        if self.late:
            words += [
                "-drive",
                f"if=none,id=late,format=raw,readonly=on,{_kept(self.late)}file={self.late}",
                "-device", "usb-storage,drive=late,removable=on",
            ]  # fmt: skip
        for number, disk in enumerate(self.disks):  # a BIOS starts from the first disk only
            size = f"logical_block_size={disk.sector},physical_block_size={disk.sector}"
            words += [
                *disk.words(f"disk{number}"),
                "-device",
                f"nvme,drive=disk{number},serial={disk.serial},bootindex={20 - number},{size}",
            ]
        return [*words, *self.extra]

    def shown(self) -> str:
        """The screen of the serial line as text."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, *words: str, within: float = PATIENCE) -> str:
        """Wait until the screen shows all these words; returns the screen."""
        self._until(
            lambda: all(word in self.shown() for word in words), f"screen with {words}", within
        )
        return self.shown()

    def hear(self, pattern: str, within: float = PATIENCE) -> float:
        """Wait until the serial line prints a match of the regular expression.

        Returns the seconds since power-on. The next call searches after the match.
        """
        found: list[re.Match[str]] = []

        def heard() -> bool:
            match = re.search(pattern, self.unread)
            if match:
                found.append(match)
            return match is not None

        self._until(heard, pattern, within)
        self.unread = self.unread[found[0].end() :]
        return time.monotonic() - self.started

    def becomes(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
        """Wait until the condition is true, while the serial line is read."""
        self._until(condition, what, within)

    def type(self, *keys: str) -> None:
        """Send keys over the serial line."""
        assert self._line
        for key in keys:
            self._line.sendall(key.encode())

    def ended(self, within: float = PATIENCE) -> None:
        """Wait until QEMU ended by itself (-no-reboot)."""
        self._until(lambda: self._process.poll() is not None, "end of the machine", within)

    def _until(self, condition: Callable[[], bool], what: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} in {within} s; the line:\n{self.unread[-3000:]}\n"
                            f"--- the screen\n{self.shown()}")  # fmt: skip
            if not self._read() and self._process.poll() is not None and not condition():
                pytest.fail(f"the machine ended, no {what}:\n{self.unread[-3000:]}")

    def _read(self) -> bool:
        try:
            found = self._received.get(timeout=1)
        except queue.Empty:
            return False
        while not self._received.empty():  # everything: evaluating the condition may take a minute
            found += self._received.get()
        with self.folder.joinpath("serial.log").open("ab") as file:
            file.write(found)
        self.unread += found.decode(errors="replace")
        self._stream.feed(found)
        return True

    @contextmanager
    def _tpm(self) -> Iterator[None]:
        """Run swtpm(8), which ends with QEMU."""
        state, socket_path = self.folder / "tpm", self.folder / "tpm.socket"
        state.mkdir(exist_ok=True)
        socket_path.unlink(missing_ok=True)
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                 "--ctrl", f"type=unixio,path={socket_path}"]  # fmt: skip
        with spawned(words, log_file=self.folder / "swtpm.log"):
            deadline = time.monotonic() + 60
            while not socket_path.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            yield

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.folder / "serial"))
            except OSError:
                line.close()
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)
            else:
                return line


def _listen(line: socket.socket, heard: queue.SimpleQueue[bytes]) -> None:
    """Read the line even while the test is busy: a kernel blocks in printk if nobody reads it."""
    try:
        while found := line.recv(1 << 16):
            heard.put(found)
    except OSError:  # power off
        return


def _kept(file: Path) -> str:
    """Options for an ISO, a link to a cached step: machines share it and must not write to it."""
    return "snapshot=on,file.locking=off," if file.suffix == ".iso" else ""


def kill(machine: Machine) -> None:
    """Stop the machine as by a power failure; data that reached the disk's file is kept."""
    machine._process.send_signal(signal.SIGKILL)
