"""Messages of a start before the first page: our own scripts, with two files as consoles."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from keystone.image import bios
from keystone.run import run

BASE = Path(__file__).parents[2] / "images/base"
INITRAMFS, ROOTFS = BASE / "initramfs/scripts", BASE / "rootfs/usr/lib"
CONSOLES = ("tty0", "ttyS0")
COMMAND_LINE = "boot=keystone keystone.root=ab keystone.tree=4096 keystone.version=7 quiet"
FOUND = """
keystone_find() {
    [ "$(keystone_seconds)" -ge %d ] || return 1
    KEYSTONE_FROM=medium KEYSTONE_PLACE=/dev/sr0 KEYSTONE_DEVICE=/dev/loop0
}
panic() { echo "$1"; exit 9; }
mountroot
"""


@dataclass(frozen=True)
class Start:
    """A folder that scripts use as the root of a machine that starts."""

    folder: Path

    def placed(self, script: Path) -> Path:
        """A copy of the script that uses paths below the folder."""
        text = script.read_text()
        for place in ("/proc/", "/sys/class/tty", "/run/keystone", "/usr/lib/keystone/"):
            text = text.replace(place, f"{self.folder}{place}")
        text = text.replace('>"/dev/$tty"', f'>>"{self.folder}/dev/$tty"')
        copy = self.folder / "scripts" / script.relative_to(INITRAMFS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace(". /scripts/", f". {self.folder}/scripts/"))
        copy.chmod(0o755)
        return copy

    def program(self, path: str, text: str = "exit 0") -> None:
        """Write a program, for example a fake on PATH."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def lines(self) -> list[str]:
        """Lines on the consoles; asserts that all consoles have the same."""
        every = [(self.folder / "dev" / name).read_text().splitlines() for name in CONSOLES]
        assert every[0] == every[1]
        return every[0]

    def mounted(self, found_after: int = 0, **more: str) -> int:
        """Run mountroot; returns its exit code. found_after: seconds until the system exists."""
        script = self.folder / "main"
        script.write_text(f". {self.placed(INITRAMFS / 'keystone')}\n{FOUND % found_after}")
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        env = {"PATH": path, "rootmnt": f"{self.folder}/root", **more}
        return run(["sh", script], env=env, check=False).returncode


@pytest.fixture
def start(tmp_path: Path) -> Start:
    start = Start(tmp_path)
    for folder in ("proc", "sys/class/tty/console", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("etc", "var", "root", "home", "opt", "srv", "usr/local"):
        (tmp_path / "root" / place).mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text(COMMAND_LINE + "\n")
    (tmp_path / "sys/class/tty/console/active").write_text(" ".join(CONSOLES) + "\n")
    for name in CONSOLES:
        (tmp_path / "dev" / name).touch()
    start.program("usr/lib/keystone/veritysetup")
    start.program("bin/mount")
    # A clock that advances by a second with each reading.
    start.program("bin/cut", f"echo . >>{tmp_path}/clock; wc -l <{tmp_path}/clock")
    start.program("bin/sleep")
    return start


def test_first_message_printed_before_search_for_devices(start: Start) -> None:
    start.placed(INITRAMFS / "keystone")
    script = start.placed(INITRAMFS / "init-top/keystone")
    assert run([script, "prereqs"]).stdout == ""  # initramfs-tools(7)
    assert start.lines() == []
    run([script])
    assert start.lines() == ["Keystone 7: starting: waiting for disks and other devices"]


def test_script_of_first_message_runs_before_udev() -> None:
    """initramfs-tools sorts scripts without prerequisites by name (tsort(1))."""
    names = ("all_generic_ide", "blacklist", "keymap", "keystone", "udev")
    pairs = "".join(f"{name} {name}\n" for name in names)
    order = run(["tsort"], data=pairs).stdout.split()
    assert order.index("keystone") < order.index("udev")
    assert os.access(INITRAMFS / "init-top/keystone", os.X_OK)


def test_start_prints_search_and_found_system(start: Start) -> None:
    assert start.mounted() == 0
    assert start.lines() == [
        "Keystone 7: searching for the disk or medium with this system",
        "Keystone 7: starting the system on the medium /dev/sr0",
    ]


def test_long_search_reported_once(start: Start) -> None:
    assert start.mounted(found_after=60) == 0
    first, long, last = start.lines()
    assert first.endswith("searching for the disk or medium with this system")
    assert long.startswith(
        "Keystone 7: no disk or medium with this system found yet: searching for another 1"
    )
    assert long.endswith(" s")
    assert last.endswith("starting the system on the medium /dev/sr0")


def test_failed_search_reported_at_end(start: Start) -> None:
    assert start.mounted(found_after=10_000) == 9
    assert start.lines()[-1] == "Keystone 7: no disk or medium has the system ab"


def test_failed_fetch_of_site_file_reported_on_each_console(start: Start) -> None:
    (start.folder / "proc/cmdline").write_text(f"{COMMAND_LINE} keystone.site=http://h/s.yaml\n")
    start.program("bin/configure_networking")
    start.program("bin/wget", "exit 1")
    assert start.mounted() == 0
    assert start.lines()[-2:] == [
        "Keystone 7: fetching http://h/s.yaml", "Keystone 7: cannot fetch http://h/s.yaml",
    ]  # fmt: skip


def test_messages_without_version_have_prefix(start: Start) -> None:
    (start.folder / "proc/cmdline").write_text("boot=keystone keystone.root=ab\n")
    assert start.mounted() == 0
    assert start.lines()[0] == "Keystone: searching for the disk or medium with this system"


def test_medium_prints_message_before_python_starts() -> None:
    unit = (ROOTFS / "systemd/system/keystone-medium.service").read_text()
    message, program = (line for line in unit.splitlines() if line.startswith("ExecStart"))
    assert message.startswith("ExecStartPre=/usr/lib/keystone-image/aloud /usr/bin/echo ")
    assert '"Keystone %A: verifying the medium, then searching for' in message
    assert "image install" in program


def test_each_console_prints_message_and_runs_guided_installation(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "medium").mkdir()
    generator = (ROOTFS / "systemd/system-generators/keystone-medium").read_text()
    script = tmp_path / "generator"
    script.write_text(generator.replace("/run/keystone/medium/keystone", f"{tmp_path}/medium"))
    made.mkdir()
    run(["sh", script, made])
    for unit in ("getty@", "serial-getty@"):
        conf = (made / f"{unit}.service.d/keystone.conf").read_text()
        assert "\nExecStart=\nExecStart=/usr/lib/keystone-image/guided %A\n" in conf
    text = (ROOTFS / "keystone-image/guided").read_text()
    fake = tmp_path / "fake"
    fake.write_text('#!/bin/sh\necho "called $*"\n')
    fake.chmod(0o755)
    copy = tmp_path / "guided"
    copy.write_text(text.replace("/usr/bin/keystone-install", str(fake)))
    shutil.copymode(ROOTFS / "keystone-image/guided", copy)
    assert run([copy, "7"]).stdout.splitlines() == [
        "Keystone 7: starting the guided installation", "called image guided",
    ]  # fmt: skip


def test_grub_prints_each_file_before_it_loads_it() -> None:
    entry = bios.menu("Keystone primer 1", "/boot", "quiet").split("menuentry ")[1]
    words = [line.split()[0] for line in entry.splitlines()[1:-1]]
    assert words == ["echo", "linux", "echo", "initrd", "echo"]
    assert "echo" in bios.MODULES
