"""A machine that starts from our images: QEMU with real firmware, and a person at its serial line.

What is waited for is named; a deadline is generous, for machines are emulated.
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

from keystone.lab import qemu
from keystone.run import bound, spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 900
"""Seconds for what a machine does by itself; a second for what it does in QEMU is ten here."""
ROWS, COLUMNS = 24, 80
SECURE_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")


@dataclass(frozen=True)
class Disk:
    """An NVMe disk: its file (raw), its serial number, and its sectors' size in bytes.

    log: a sparse file for all that is written to it (writes.py), or None.
    """

    file: Path
    serial: str
    sector: int = 512
    log: Path | None = None

    def words(self, name: str) -> list[str]:
        """QEMU's, for the drive of this name."""
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
    """One start of one machine after the other, on the same disks.

    firmware: uefi, bios or secure (UEFI that checks signatures; `variables` has the keys). cd, usb:
    media. late: a USB disk that firmware does not start from. tpm: a software TPM 2.0. prefix:
    words before QEMU's. screen: what the serial line shows. said: what it said since power-on and
    nobody asked for yet.
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
    said: str = ""
    started: float = 0.0
    screen: pyte.Screen = field(default_factory=lambda: pyte.Screen(COLUMNS, ROWS))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._line: socket.socket | None = None
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Power on."""
        self.folder.joinpath("serial").unlink(missing_ok=True)
        self.screen.reset()
        self.said = ""
        self._stream = pyte.ByteStream(self.screen)
        if self.tpm:
            self._stack.enter_context(self._tpm())
        process = self._stack.enter_context(
            spawned(bound(self.command()), log_file=self.folder / "qemu.log")
        )
        self._process = process
        self.started = time.monotonic()
        self._line = self._stack.enter_context(self._connect())
        self._heard = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._line, self._heard), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Power off, at once."""
        self._stack.close()
        self._line = None

    def command(self) -> list[str]:
        """QEMU's."""
        words = [
            *self.prefix,
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,smm=on" if self.firmware == "secure" else "q35",
            "-global", "ICH9-LPC.noreboot=off",  # the chipset's watchdog is there
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
        for number, disk in enumerate(self.disks):  # a BIOS starts from the first one only
            size = f"logical_block_size={disk.sector},physical_block_size={disk.sector}"
            words += [
                *disk.words(f"disk{number}"),
                "-device",
                f"nvme,drive=disk{number},serial={disk.serial},bootindex={20 - number},{size}",
            ]
        return [*words, *self.extra]

    def shown(self) -> str:
        """The serial line's screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, *words: str, within: float = PATIENCE) -> str:
        """Until the screen shows all of these; the screen."""
        self._until(
            lambda: all(word in self.shown() for word in words), f"screen with {words}", within
        )
        return self.shown()

    def hear(self, pattern: str, within: float = PATIENCE) -> float:
        """Until the line has said this (a regular expression) since power-on; seconds since then.

        What was heard is behind us: the next one is looked for after it.
        """
        found: list[re.Match[str]] = []

        def heard() -> bool:
            match = re.search(pattern, self.said)
            if match:
                found.append(match)
            return match is not None

        self._until(heard, pattern, within)
        self.said = self.said[found[0].end() :]
        return time.monotonic() - self.started

    def becomes(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
        """Until something is true that is asked for again and again, while the line is read."""
        self._until(condition, what, within)

    def type(self, *keys: str) -> None:
        """On the serial line."""
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
                pytest.fail(f"no {what} in {within} s; the line:\n{self.said[-3000:]}\n"
                            f"--- the screen\n{self.shown()}")  # fmt: skip
            if not self._read() and self._process.poll() is not None and not condition():
                pytest.fail(f"the machine ended, no {what}:\n{self.said[-3000:]}")

    def _read(self) -> bool:
        try:
            found = self._heard.get(timeout=1)
        except queue.Empty:
            return False
        while not self._heard.empty():  # all of it: what is asked next may take a minute
            found += self._heard.get()
        with self.folder.joinpath("serial.log").open("ab") as file:
            file.write(found)
        self.said += found.decode(errors="replace")
        self._stream.feed(found)
        return True

    @contextmanager
    def _tpm(self) -> Iterator[None]:
        """swtpm(8); it ends with QEMU."""
        state, door = self.folder / "tpm", self.folder / "tpm.socket"
        state.mkdir(exist_ok=True)
        door.unlink(missing_ok=True)
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                 "--ctrl", f"type=unixio,path={door}"]  # fmt: skip
        with spawned(words, log_file=self.folder / "swtpm.log"):
            deadline = time.monotonic() + 60
            while not door.exists() and time.monotonic() < deadline:
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
    """While the test is busy, too: a kernel waits in printk for a line that nobody reads."""
    try:
        while found := line.recv(1 << 16):
            heard.put(found)
    except OSError:  # power off
        return


def _kept(file: Path) -> str:
    """An ISO is a link to a step of the cache: many machines may have it, and none writes it."""
    return "snapshot=on,file.locking=off," if file.suffix == ".iso" else ""


def kill(machine: Machine) -> None:
    """As a power cut would, for the processor: what the disk's file has, it has."""
    machine._process.send_signal(signal.SIGKILL)
