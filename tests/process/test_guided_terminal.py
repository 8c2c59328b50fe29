"""The guided way on a terminal of 80 x 24, by its keys: a real pty, and pyte to see what it shows."""

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
from fcntl import ioctl
from typing import TYPE_CHECKING

import pyte
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import json, sys
from dataclasses import asdict
from keystone.facts import DiskFacts
from keystone.guided import questions, screens
from keystone.image.identity import Hardware

def disk(serial, **more):
    return DiskFacts(name=serial.lower(), path=f"/dev/{serial.lower()}", by_id=(), serial=serial,
        model="QEMU NVMe Ctrl", size=32 << 30, logical_sector=512, physical_sector=512, **more)

disks = (disk("KEYP2A"), disk("KEYP2B"), disk("SYS2"), disk("OLD", partition_table="gpt"))
seen = questions.Seen(Hardware("M2", ("52:54:00:00:00:12",)), disks, "/run/keystone/sticks/sda1")
terminal = screens.Terminal(shell=("/bin/sh", "-c", "echo a shell; read line"))
found = questions.ask(terminal, seen)
print("ANSWERS " + json.dumps(asdict(found) if found else None) + " END")
"""
ENTER, ESCAPE, TAB, UP, DOWN, SPACE = "\r", "\x1b", "\t", "\x1b[A", "\x1b[B", " "
BACKSPACE, SHELL = "\x7f", "\x14"
PATIENCE = 60
"""Seconds to wait for what a screen shall show."""


class Line:
    """A serial line with a person at it, who waits for what he expects to see."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "vt220"
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, *words: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while not all(word in self.shown() for word in words):
            if time.monotonic() > deadline:
                pytest.fail(f"{words} did not appear on:\n{self.shown()}")
            if select.select([self._fd], [], [], 1)[0]:
                try:
                    self._stream.feed(os.read(self._fd, 1 << 16))
                except OSError:  # the program has ended
                    break
        assert all(word in self.shown() for word in words), self.shown()
        return self.shown()

    def type(self, *keys: str) -> None:
        for key in keys:
            os.write(self._fd, key.encode())

    def replace(self, old: str, new: str) -> None:
        self.type(*[BACKSPACE] * len(old), new)

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
    """Up to the page of roles, as a site named plant."""
    line.wait("This machine: serial number M2", "OLD", "partition table gpt", "Go on")
    line.type(ENTER)
    line.wait("Site:", "Network:", "10.77.0.0/24")
    line.replace("site", "plant")
    line.type(ENTER, ENTER, ENTER)
    line.wait("Every Primer has one ZFS pool", "> two disks in each Primer")
    line.type(ENTER)
    line.wait("A site has 1, 3 or 5 Primers", "> a joining Primer")


def test_a_joining_primer_by_keys_alone(line: Line) -> None:
    site(line)
    line.type(ENTER)
    line.wait("Name:", "p2", "Address:")
    line.type(ENTER, "10.78.0.12", ENTER)
    line.wait("10.78.0.12 is not in")
    line.replace("10.78.0.12", "10.77.0.12")
    line.type(ENTER)
    line.wait("Keystone's own system is written to it", "OLD: partition table gpt", "> SYS2")
    line.type(UP, UP)
    line.wait("> KEYP2A")
    line.type(DOWN, DOWN, ENTER)
    line.wait("The pool is made of what you mark", "[ ] KEYP2A")
    line.type(SPACE, ENTER)
    line.wait("Not yet: pools of this site are mirror, of 2 disks each; 1 are marked")
    line.type(DOWN, SPACE, ENTER)
    line.wait("Site plant", "Now written:  disk SYS2", "> only save this on the stick")
    line.type(DOWN, ENTER)
    said = line.wait("ANSWERS", "END").replace("\n", "")
    answers = json.loads(said[said.index("ANSWERS ") + 8 : said.index(" END")])
    assert (answers["name"], answers["system"], answers["what"]) == ("p2", "SYS2", "write")
    assert answers["pool"] == ["KEYP2A", "KEYP2B"]


def test_escape_goes_back_and_keeps_what_was_typed(line: Line) -> None:
    site(line)
    line.type(ESCAPE)
    line.wait("Site:", "plant")
    line.type(ESCAPE)
    line.wait("This machine: serial number M2")
    line.type(ESCAPE)
    line.wait("ANSWERS null END")


def test_tab_reaches_the_buttons(line: Line) -> None:
    line.wait("This machine: serial number M2")
    line.type(TAB, ENTER)
    line.wait("ANSWERS null END")


def test_a_shell_is_one_key_away_and_ends_where_it_began(line: Line) -> None:
    line.wait("This machine: serial number M2")
    line.type(SHELL)
    line.wait("a shell")
    line.type(ENTER)
    line.wait("This machine: serial number M2", "Go on")
