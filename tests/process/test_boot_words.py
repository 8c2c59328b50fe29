"""What a start says before the first page: our own scripts, on two consoles that are files."""

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
    """A machine that starts, in a folder: scripts find there what they look for from the top."""

    folder: Path

    def placed(self, script: Path) -> Path:
        """A copy of the script that looks below the folder."""
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
        """A program, or one of the fakes on PATH."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def said(self) -> list[str]:
        """Lines on the consoles, which are the same on each."""
        every = [(self.folder / "dev" / name).read_text().splitlines() for name in CONSOLES]
        assert every[0] == every[1]
        return every[0]

    def mounted(self, found_after: int = 0, **more: str) -> int:
        """Run mountroot; its exit code. found_after: seconds until there is the system."""
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
    # A clock that goes on by a second whenever it is read.
    start.program("bin/cut", f"echo . >>{tmp_path}/clock; wc -l <{tmp_path}/clock")
    start.program("bin/sleep")
    return start


def test_the_first_words_come_before_devices_are_looked_for(start: Start) -> None:
    start.placed(INITRAMFS / "keystone")
    script = start.placed(INITRAMFS / "init-top/keystone")
    assert run([script, "prereqs"]).stdout == ""  # initramfs-tools(7)
    assert start.said() == []
    run([script])
    assert start.said() == ["Keystone 7: starting: waiting for disks and other devices"]


def test_the_script_of_the_first_words_runs_before_udev() -> None:
    """initramfs-tools sorts scripts that ask for no order by name (tsort(1))."""
    names = ("all_generic_ide", "blacklist", "keymap", "keystone", "udev")
    pairs = "".join(f"{name} {name}\n" for name in names)
    order = run(["tsort"], data=pairs).stdout.split()
    assert order.index("keystone") < order.index("udev")
    assert os.access(INITRAMFS / "init-top/keystone", os.X_OK)


def test_a_start_says_what_it_looks_for_and_what_it_starts(start: Start) -> None:
    assert start.mounted() == 0
    assert start.said() == [
        "Keystone 7: looking for the disk or medium with this system",
        "Keystone 7: starting the system on the medium /dev/sr0",
    ]


def test_a_start_that_looks_for_long_says_so_once(start: Start) -> None:
    assert start.mounted(found_after=60) == 0
    first, long, last = start.said()
    assert first.endswith("looking for the disk or medium with this system")
    assert long.startswith("Keystone 7: no disk or medium with this system yet: looking for 1")
    assert long.endswith(" s more")
    assert last.endswith("starting the system on the medium /dev/sr0")


def test_a_start_that_finds_nothing_says_so_at_its_end(start: Start) -> None:
    assert start.mounted(found_after=10_000) == 9
    assert start.said()[-1] == "Keystone 7: no disk and no medium has the system ab"


def test_a_site_file_over_the_network_is_said_on_each_console(start: Start) -> None:
    (start.folder / "proc/cmdline").write_text(f"{COMMAND_LINE} keystone.site=http://h/s.yaml\n")
    start.program("bin/configure_networking")
    start.program("bin/wget", "exit 1")
    assert start.mounted() == 0
    assert start.said()[-2:] == [
        "Keystone 7: fetching http://h/s.yaml", "Keystone 7: http://h/s.yaml cannot be fetched",
    ]  # fmt: skip


def test_without_a_version_the_words_are_ours_still(start: Start) -> None:
    (start.folder / "proc/cmdline").write_text("boot=keystone keystone.root=ab\n")
    assert start.mounted() == 0
    assert start.said()[0] == "Keystone: looking for the disk or medium with this system"


def test_the_medium_says_that_it_is_checked_before_python_starts() -> None:
    unit = (ROOTFS / "systemd/system/keystone-medium.service").read_text()
    said, done = (line for line in unit.splitlines() if line.startswith("ExecStart"))
    assert said.startswith("ExecStartPre=/usr/lib/keystone-image/aloud /usr/bin/echo ")
    assert '"Keystone %A: checking the medium, then looking for' in said
    assert "image install" in done


def test_each_console_says_that_the_questions_start_and_asks_them(tmp_path: Path) -> None:
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
    asks = tmp_path / "asks"
    asks.write_text('#!/bin/sh\necho "asked $*"\n')
    asks.chmod(0o755)
    copy = tmp_path / "guided"
    copy.write_text(text.replace("/usr/bin/keystone-install", str(asks)))
    shutil.copymode(ROOTFS / "keystone-image/guided", copy)
    assert run([copy, "7"]).stdout.splitlines() == [
        "Keystone 7: starting the questions about this machine", "asked image guided",
    ]  # fmt: skip


def test_grub_says_what_it_loads_before_it_does() -> None:
    entry = bios.menu("Keystone primer 1", "/boot", "quiet").split("menuentry ")[1]
    words = [line.split()[0] for line in entry.splitlines()[1:-1]]
    assert words == ["echo", "linux", "echo", "initrd", "echo"]
    assert "echo" in bios.MODULES
