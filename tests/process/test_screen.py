"""The live screen on a terminal (pty(7)): it is drawn, it ends clean, the log keeps all of it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess  # noqa: TID251 the program under test
import sys
import termios
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, VISIBLE = b"\x1b[?25l", b"\x1b[?25h"
RUN = """
import signal, sys
from pathlib import Path
from keystone import cli, log
from keystone.errors import HostError, KeystoneError
from keystone.lab.screen import watching

CHILD = '''
from keystone import log
import os
log.configure(json_lines=os.environ["KEYSTONE_LOG_FORMAT"] == "json")
print("a line of text")
with log.step("the child's step"):
    log.event("task", "Put it", role="etcd", task="Put it", hosts=["p1"])
log.error("error: the child's reason")
raise SystemExit(8)
'''
signal.signal(signal.SIGINT, cli._interrupt)
try:
    with watching("a title", ("first", "second"), Path(sys.argv[1])) as screen:
        with screen.part("first"):
            BODY
except KeystoneError as failure:
    cli._show(failure)
    sys.exit(failure.exit_code)
log.out("the end")
"""
FAILING = """code = screen.run([sys.executable, "-c", CHILD], who="p1")
            raise HostError(f"p1: ended with {code}", hint="look there")"""
WAITING = """screen.run(["sleep", "300"], who="p1")"""
ENDING = """screen.run(["echo", "well"], who="p1")"""


@contextmanager
def on_terminal(body: str, folder: Path, columns: int = 80, lines: int = 24) -> Iterator[
    tuple[subprocess.Popen[bytes], int]
]:  # fmt: skip
    """The run as a process whose outputs are a terminal of that size; what it says, by the fd."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    program = textwrap.dedent(RUN).replace("BODY", body)
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "LANG": "C.UTF-8", "COLUMNS": "", "LINES": ""},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(fd: int, until: bytes = b"") -> bytes:
    """What the terminal gets, to those bytes or to the end."""
    got = b""
    with suppress(OSError):  # EIO: nobody has it open any more
        while not (until and until in got):
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            got += piece
    return got


def assert_clean(said: bytes) -> bytes:
    """The terminal is as it was; returns what was said after the screen ended."""
    assert said.count(ALTERNATE) == said.count(NORMAL) == 1
    assert said.rindex(VISIBLE) > said.rindex(HIDDEN)
    return said.partition(NORMAL)[2]


def test_a_failing_part_leaves_its_reason_on_a_clean_terminal(tmp_path: Path) -> None:
    with on_terminal(FAILING, tmp_path) as (process, terminal):
        said = read(terminal)
        assert process.wait(60) == 8
    after = assert_clean(said).decode()
    for words in ("a line of text", "the child's reason", "p1: ended with 8", "next: look there"):
        assert words in after
    assert after.index("demo.log") < after.index("p1: ended with 8")
    kept = (tmp_path / "demo.log").read_text()
    for words in ("a title", "p1   a line of text", "the child's step", "the child's reason"):
        assert words in kept
    assert '"hosts": ["p1"]' in (tmp_path / "demo.jsonl").read_text()


def test_an_interrupted_run_leaves_a_clean_terminal(tmp_path: Path) -> None:
    with on_terminal(WAITING, tmp_path) as (process, terminal):
        said = read(terminal, until=b"second")
        process.send_signal(signal.SIGINT)
        said += read(terminal)
        assert process.wait(60) == 9
    assert b"stopped by SIGINT" in assert_clean(said)


def test_a_run_that_ends_well_leaves_the_terminal_to_its_caller(tmp_path: Path) -> None:
    with on_terminal(ENDING, tmp_path) as (process, terminal):
        said = read(terminal)
        assert process.wait(60) == 0
    assert assert_clean(said).strip().decode().endswith("the end")
    assert "well" in (tmp_path / "demo.log").read_text()


@pytest.mark.parametrize(("columns", "lines"), [(79, 24), (80, 19)])
def test_a_small_terminal_gets_lines(tmp_path: Path, columns: int, lines: int) -> None:
    with on_terminal(ENDING, tmp_path, columns, lines) as (process, terminal):
        said = read(terminal)
        assert process.wait(60) == 0
    assert ALTERNATE not in said
    assert b"well" in said
    assert not (tmp_path / "demo.log").exists()
