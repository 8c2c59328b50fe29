"""Measuring: rows of the table, commands as processes, alternating measurements."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 peers and Keystone are measured as processes
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
ROUNDS = 5
LIMIT = 96
"""Limit of resident memory in MiB."""
PROBE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
assert code.returncode == 0, code.stderr.decode()[-2000:]
print(json.dumps([time.monotonic() - start,
                  resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Row:
    """One row of the table. ours, theirs: as text. value: a number to compare with target."""

    what: str
    ours: str
    beside: str
    theirs: str
    value: float
    target: str
    reached: bool


def at_most(what: str, value: float, limit: float, unit: str, shown: str = "") -> Row:
    """Make a row of a value with an upper limit. shown: the value as text."""
    ours = shown or f"{value:.0f} {unit}"
    target = f"<= {limit:g} {unit}"
    return Row(what, ours, "limit", f"{limit:g} {unit}", round(value, 3), target, value <= limit)


def at_least(what: str, ours: str, beside: str, theirs: str, ratio: tuple[float, float]) -> Row:
    """Make a row of a speed compared to another. ratio: the measured and the required ratio."""
    value, target = ratio
    return Row(what, ours, beside, theirs, round(value, 2), f">= {target:g}", value >= target)


def run(*words: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(words, check=True, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def keystone(folder: Path, *words: str | Path) -> tuple[float, float]:
    """Run a command; return its seconds and peak MiB, the largest of it and its children.

    A small process starts the command, because a child inherits its parent's peak.
    """
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROBE, sys.executable, "-m", "keystone", *words],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def memory(what: str, folder: Path, *words: str | Path) -> Row:
    """Make a row of a command's peak memory."""
    _, peak = keystone(folder, *words)
    return at_most(f"memory, {what}", peak, LIMIT, "MiB")


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of `work`, after flushing earlier writes to disk."""
    os.sync()
    start = time.monotonic()
    work()
    return time.monotonic() - start


def best(*works: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Return the least seconds of each, measured alternately."""
    return [
        min(found) for found in zip(*([w() for w in works] for _ in range(rounds)), strict=True)
    ]


def rate(size: int, seconds: float) -> str:
    return f"{size / MIB / seconds:.0f} MiB/s"
