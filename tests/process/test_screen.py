"""The live screen on a terminal (pty(7)): it restores the terminal, and the log is complete."""

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
from keystone.lab.screen.live import watching

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
    """Start a run on a terminal of that size; yield the process and a descriptor of its output."""
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
    """Read the output to the terminal until these bytes, or until the end."""
    got = b""
    with suppress(OSError):  # EIO: no process has the terminal open any more
        while not (until and until in got):
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            got += piece
    return got


def assert_clean(output: bytes) -> bytes:
    """Check that the terminal was restored; return the output after the screen ended."""
    assert output.count(ALTERNATE) == output.count(NORMAL) == 1
    assert output.rindex(VISIBLE) > output.rindex(HIDDEN)
    return output.partition(NORMAL)[2]


def test_failed_part_restores_terminal_and_prints_reason(tmp_path: Path) -> None:
    with on_terminal(FAILING, tmp_path) as (process, terminal):
        output = read(terminal)
        assert process.wait(60) == 8
    after = assert_clean(output).decode()
    for words in ("a line of text", "the child's reason", "p1: ended with 8", "next: look there"):
        assert words in after
    assert after.index("demo.log") < after.index("p1: ended with 8")
    kept = (tmp_path / "demo.log").read_text()
    for words in ("a title", "p1   a line of text", "the child's step", "the child's reason"):
        assert words in kept
    assert '"hosts": ["p1"]' in (tmp_path / "demo.jsonl").read_text()


def test_interrupted_run_restores_terminal(tmp_path: Path) -> None:
    with on_terminal(WAITING, tmp_path) as (process, terminal):
        output = read(terminal, until=b"second")
        process.send_signal(signal.SIGINT)
        output += read(terminal)
        assert process.wait(60) == 9
    assert b"stopped by SIGINT" in assert_clean(output)


def test_successful_run_restores_terminal_and_caller_prints(tmp_path: Path) -> None:
    with on_terminal(ENDING, tmp_path) as (process, terminal):
        output = read(terminal)
        assert process.wait(60) == 0
    assert assert_clean(output).strip().decode().endswith("the end")
    assert "well" in (tmp_path / "demo.log").read_text()


@pytest.mark.parametrize(("columns", "lines"), [(79, 24), (80, 19)])
def test_small_terminal_gets_lines_instead_of_screen(
    tmp_path: Path, columns: int, lines: int
) -> None:
    with on_terminal(ENDING, tmp_path, columns, lines) as (process, terminal):
        output = read(terminal)
        assert process.wait(60) == 0
    assert ALTERNATE not in output
    assert b"well" in output
    assert not (tmp_path / "demo.log").exists()
