"""Guided installation on a terminal of 80 x 24, by keys: a real pty, with pyte as its screen.

test_guided_look.py tests layout and colours, there and on larger screens.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyte
import pytest

from keystone.appliance.guided import draft as drafts
from keystone.appliance.identity import Hardware

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import json, sys
from dataclasses import asdict
from keystone.appliance.guided import questions, screens
from keystone.appliance.guided.answers import Seen
from keystone.appliance.identity import Card, Hardware
from keystone.hosts.facts import DiskFacts
from keystone.join import join_yaml

def disk(serial, **more):
    return DiskFacts(name=serial.lower(), path=f"/dev/{serial.lower()}", by_id=(), serial=serial,
        model="QEMU NVMe Ctrl", size=32 << 30, logical_sector=512, physical_sector=512, **more)

disks = (disk("KEYP2A"), disk("KEYP2B"), disk("SYS2"), disk("OLD", partition_table="gpt"),
    disk("CUT", partition_table="gpt"))
macs = {"52:54:00:00:00:12": Card("eno1", "igb", False),
    "52:54:00:00:00:13": Card("eno2", "igb", True)}
seen = Seen(Hardware(sys.argv[3], tuple(macs)), disks, "/run/keystone/sticks/sda1",
    draft=json.loads(sys.argv[1]), fingerprint="0123456789abcdef" * 4, cards=macs,
    join=join_yaml.parse(sys.argv[2]) if sys.argv[2] else None, begun=frozenset({"CUT"}))
shell = "echo a shell; read line; echo typed $line; read line"
terminal = screens.Terminal(shell=("/bin/sh", "-c", shell))
found = questions.ask(terminal, seen)
answers = asdict(found) if found else None
if answers and answers["join"]:
    answers["join"] = [worker["name"] for worker in answers["join"]["workers"]]
print("ANSWERS " + json.dumps(answers) + " END")
"""
ENTER, ESCAPE, TAB, UP, DOWN, SPACE = "\r", "\x1b", "\t", "\x1b[A", "\x1b[B", " "
BACKSPACE, SHELL = "\x7f", "\x14"
PATIENCE = 60
"""Seconds to wait for text on the screen."""


class Line:
    """A serial line with a person at it, who waits for the expected text.

    serial: the machine's serial number in firmware. received: all bytes the program sent.
    """

    def __init__(
        self,
        draft: drafts.Document | None = None,
        join: str = "",
        size: tuple[int, int] = (80, 24),
        serial: str = "M2",
        program: str = PROGRAM,
    ) -> None:
        columns, rows = size
        self.screen, self.received = pyte.Screen(columns, rows), b""
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "vt220"
            words = [sys.executable, "-c", program, json.dumps(draft or {}), join, serial]
            os.execv(sys.executable, words)
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, *words: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while not all(word in self.shown() for word in words):
            if time.monotonic() > deadline:
                pytest.fail(f"{words} did not appear on:\n{self.shown()}")
            if select.select([self._fd], [], [], 1)[0]:
                try:
                    found = os.read(self._fd, 1 << 16)
                except OSError:  # the program has ended
                    break
                self.received += found
                self._stream.feed(found)
        assert all(word in self.shown() for word in words), self.shown()
        return self.shown()

    def type(self, *keys: str) -> None:
        for key in keys:
            os.write(self._fd, key.encode())

    def replace(self, old: str, new: str) -> None:
        self.type(*[BACKSPACE] * len(old), new)

    def answers(self) -> Any:
        """The answers that the program printed; the printed line wraps at the screen's width."""
        text = "".join(row for row in self.wait("ANSWERS", "END").split("\n"))
        return json.loads(text[text.index("ANSWERS ") + 8 : text.index(" END")])

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def line() -> Iterator[Line]:
    opened = Line()
    yield opened
    opened.close()


def site(line: Line) -> None:
    """Answer as a joining Primer of a site named plant, up to the page of the machine's name."""
    line.wait("This machine: serial number M2", "OLD", "partition table gpt", "Continue")
    line.type(ENTER)
    line.wait("A site has 1, 3 or 5 Primers", "> a joining Primer")
    line.type(ENTER)
    line.wait("Site:", "Network:", "10.77.0.0/24")
    line.replace("site", "plant")
    line.type(ENTER, ENTER, ENTER)
    line.wait("Every Primer has one ZFS pool", "> two disks in each Primer")
    line.type(ENTER)
    line.wait("Name:", "p2", "Address:")


def test_joining_primer_described_by_keyboard_alone(line: Line) -> None:
    site(line)
    line.type(ENTER, "10.78.0.12", ENTER)
    line.wait("10.78.0.12 is outside")
    line.replace("10.78.0.12", "10.77.0.12")
    line.type(ENTER)
    line.wait("52:54:00:00:00:12  eno1, igb, no cable", "> 52:54:00:00:00:13  eno2, igb, cable")
    line.type(ENTER)
    line.wait(
        "Keystone's system is written to this disk",
        "OLD: partition table gpt",
        "> CUT",
        "incomplete write",
    )
    line.type(UP)
    line.wait("> SYS2")
    line.type(UP, UP)
    line.wait("> KEYP2A")
    line.type(DOWN, DOWN, ENTER)
    line.wait("Mark the disks for the pool", "[ ] KEYP2A")
    line.type(SPACE, ENTER)
    line.wait("Not accepted: a pool of layout mirror needs 2 disks; 1 is marked")
    line.type(DOWN, SPACE, ENTER)
    line.wait("Site plant", "Written now:  all of disk SYS2", "> only save this on the stick")
    line.type(DOWN, ENTER)
    answers = line.answers()
    assert (answers["name"], answers["system"], answers["what"]) == ("p2", "SYS2", "write")
    assert answers["pool"] == ["KEYP2A", "KEYP2B"]


def test_escape_goes_back_and_keeps_typed_text(line: Line) -> None:
    site(line)
    line.type(ESCAPE)
    line.wait("Site:", "plant")
    line.type(ESCAPE)
    line.wait("> a joining Primer")
    line.type(ESCAPE)
    line.wait("This machine: serial number M2")
    line.type(ESCAPE)
    line.wait("ANSWERS null END")


def test_tab_moves_focus_to_buttons(line: Line) -> None:
    line.wait("This machine: serial number M2")
    line.type(TAB, ENTER)
    line.wait("ANSWERS null END")


def test_shell_key_opens_shell_and_returns_to_same_page(line: Line) -> None:
    line.wait("This machine: serial number M2")
    line.type(SHELL)
    line.wait("a shell")
    line.type("hello", ENTER)
    line.wait("typed hello")
    line.type(ENTER)
    line.wait("This machine: serial number M2", "Continue")


def test_first_primer_described_last_and_fingerprint_confirmed() -> None:
    here = Hardware("M3", ("52:54:00:00:00:23",))
    draft = drafts.begin("plant", "10.77.0.0/24", "")
    for number in (3, 4):
        machine = replace(here, serial=f"M{number}", macs=(f"52:54:00:00:00:2{number}",))
        primer = drafts.Primer(
            f"p{number}", f"10.77.0.1{number}", f"SYS{number}", (f"A{number}", f"B{number}")
        )
        draft = drafts.add(draft, primer, machine, first=False)
    line = Line(draft)
    try:
        line.wait("Site so far:  p3, p4", "Continue")
        line.type(ENTER)
        line.wait("> a joining Primer")
        line.type(DOWN, ENTER)
        line.wait("Name:", "p1")
        line.type(ENTER, "10.77.0.11", ENTER)
        line.wait("eno2")
        line.type(ENTER)
        line.wait("> CUT")
        line.type(UP, ENTER)
        line.wait("[ ] KEYP2A")
        line.type(SPACE, DOWN, SPACE, ENTER)
        line.wait("Passphrase:", "Again:")
        line.type("short", ENTER, "short", ENTER)
        line.wait("a passphrase must have 12 characters or more")
        assert "short" not in line.shown()
        line.type("er than none", TAB, TAB, TAB, "er than none", ENTER, ENTER)
        line.wait("fingerprint", "0123456789abcdef" * 4, "> no, or I do not know")
        line.type(DOWN, ENTER)
        line.wait("Site plant", "p1", "p3", "p4", "all of disk SYS2", "> only save this")
        line.type(DOWN, ENTER)
        answers = line.answers()
        assert (answers["role"], answers["card"]) == ("first", "52:54:00:00:00:13")
        assert answers["fingerprint"] == "0123456789abcdef" * 4
        assert answers["passphrase"] == "shorter than none"
    finally:
        line.close()


JOIN = (Path(__file__).parent.parent / "cases/join/good.yaml").read_text().replace("M2", "M7")


def test_worker_described_by_keyboard_with_wrong_input_and_every_step_back() -> None:
    line = Line(join=JOIN)
    try:
        line.wait("This machine: serial number M2", "Continue")
        line.type(ENTER)
        line.wait("Workers join the running site", "> a worker")
        line.type(ENTER)
        line.wait("Name:", "Address:", "address empty for DHCP")
        line.type(ENTER, ENTER)
        line.wait("a worker needs a name, for example w1")
        line.type(TAB, TAB, TAB, "w1", ENTER, "10.77.0", ENTER)
        line.wait("10.77.0 is not an IPv4 address")
        line.type(".21", ENTER)
        line.wait("connected to 10.77.0.0/24. It gets 10.77.0.21.", "> 52:54:00:00:00:13")
        line.type(ENTER)
        line.wait("Keystone's system is written to this disk", "OLD: partition table gpt", "> CUT")
        line.type(UP, ENTER)
        line.wait(
            "Site plant", "Primer:        10.77.0.11", "CA pin:        fddd5d5c8e3a5eaa...",
            "000000000001, valid until 2026-11-29 06:30Z", "w1, 10.77.0.21, card 52:54:00:00:00:13",
            "all of disk SYS2 (blank)", "> only save this on the stick",
        )  # fmt: skip
        line.type(ESCAPE)
        line.wait("> SYS2")
        line.type(ESCAPE)
        line.wait("> 52:54:00:00:00:13")
        line.type(ESCAPE)
        line.wait("Name:", "w1", "10.77.0.21")
        line.type(ESCAPE)
        line.wait("> a worker")
        line.type(ENTER)
        line.wait("Name:", "w1")
        line.type(ENTER, ENTER)
        line.wait("> 52:54:00:00:00:13")
        line.type(ENTER)
        line.wait("> SYS2")
        line.type(ENTER)
        line.wait("> only save this on the stick")
        line.type(DOWN, ENTER)
        answers = line.answers()
        assert answers["join"] == ["w1", "w2", "w3", "w4"]
        assert (answers["address"], answers["system"]) == ("10.77.0.21", "SYS2")
        assert (answers["role"], answers["what"]) == ("worker", "write")
    finally:
        line.close()


def test_no_token_page_shows_command_and_goes_back(line: Line) -> None:
    line.wait("This machine: serial number M2", "Continue")
    line.type(ENTER)
    line.wait("> a joining Primer")
    line.type(DOWN, DOWN, ENTER)
    line.wait("No token", "there is no join.yaml on the stick", "token create --to /mnt", "Back")
    line.type(ENTER)
    line.wait("Role of this machine", "> a worker")
    line.type(ESCAPE)
    line.wait("This machine: serial number M2")
